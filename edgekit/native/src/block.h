// A transformer block with its packed weights, and the attention op: validation and the split into tasks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "chains.h"
#include "edgekit_ops.h"
#include "kernels.h"

namespace edgekit {

// Zeros, aligned to cache lines. From 1 MB on they lie in huge pages where the system gives them: the small pages of a
// model's weights exceed the L2 TLB, which costs some 2 % of a block.
class Memory {
public:
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    char* data() const { return data_; }

private:
    char* data_;
    size_t alignment_;
};

// A linear layer as the kernels want it: its view points into memory that it is packed to.
struct PackedLinear {
    Linear view;
    PackedLinear(const edgekit_linear& from, int in, int out, Format format);
    size_t bytes() const;  // that pack() needs, zeroed
    void pack(bool quality, const float* gain, char* memory);

private:
    edgekit_linear from;
    ChainedWeights chained;
    size_t weight_bytes;
    void pack_floats(float* packed);
    void pack_integers(char* packed);
    void pack_chains(char* memory);
    void count(bool quality, float* scale, int32_t* sums);
};

// A gated layer (2 * hidden, in) with its outputs in turns: half a tile of gates, then their values, both up to a multiple of
// 16 with zeros. The gain of the hidden channels goes into the values.
struct GatedLinear {
    int out;
    edgekit_linear view;
    GatedLinear(const edgekit_linear& from, int in, int hidden, const float* gain, int columns);

private:
    std::vector<int8_t> weight;
    std::vector<float> scale, bias, exact;
};

// Keeps the sentence for edgekit_last_error(); EDGEKIT_INVALID.
int refuse(std::string why);

// Empty when the block can be run, else what is wrong with it.
std::string problem_of(const edgekit_block_spec& spec);
std::string problem_of(const Attention& attention, int64_t batch, int64_t tokens, int64_t width, int64_t heads);
std::string problem_of(const edgekit_rope& rope, int64_t tokens, int64_t dim);

// False when memory is short.
bool attend_all(Attention attention, int64_t batch, const edgekit_threads* threads);

}  // namespace edgekit

struct edgekit_block {
    edgekit::BlockData data;
    std::unique_ptr<edgekit::Memory> weights;
    std::vector<float> norms[4];
};
