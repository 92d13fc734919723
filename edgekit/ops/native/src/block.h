// A transformer block with its packed weights, and the attention op: validation and the split into tasks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "edgekit_ops.h"
#include "kernels.h"

namespace edgekit {

// Bytes aligned to cache lines.
struct Memory {
    explicit Memory(size_t bytes);
    char* at(size_t offset) { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(bytes_.get()) + 63) & ~uintptr_t{63}) + offset; }

private:
    std::unique_ptr<char[]> bytes_;
};

// A Linear of the kernels and what it points to.
struct PackedLinear {
    Linear view;
    std::vector<Memory> owned;
    void pack(const edgekit_linear& from, int in, int out, Format format, bool quality, const float* gain);
    void pack_floats(const edgekit_linear& from, int in, int out, const float* gain);

private:
    float* allocate(int in, int out, Format format);
};

// Empty when the block can be run, else what is wrong with it.
std::string problem_of(const edgekit_block_spec& spec);
std::string problem_of(const Attention& attention, int64_t batch, int64_t tokens, int64_t width, int64_t heads);

// False when memory is short.
bool attend_all(Attention attention, int64_t batch, const edgekit_threads* threads);

}  // namespace edgekit

struct edgekit_block {
    edgekit::BlockData data;
    edgekit::PackedLinear qkv, proj, fc1, fc2;
    std::vector<float> norms[4];
};
