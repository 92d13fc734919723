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

bool all_finite(const float* values, int64_t count);

// Empty when the block can be run, else what is wrong with it.
std::string problem_of(const edgekit_block_spec& spec);
std::string problem_of(const Attention& attention, int64_t batch, int64_t tokens, int64_t width, int64_t heads);
std::string problem_of(const edgekit_rope& rope, int64_t tokens, int64_t dim);

class Slots;

// Queries and keys of (batch, tokens, stride), in place.
void rotate_all(const Attention& attention, const Rope& rope, float* qkv, int64_t batch, const edgekit_threads* threads);
size_t packed_bytes(const Attention& attention, int64_t batch);
// `packed` has packed_bytes(). False when memory is short.
bool attend_all(const Attention& attention, int64_t batch, const edgekit_threads* threads, char* packed, Slots* slots);

// What a block keeps between its stages: the projection, the mixed values, the packed heads.
struct BlockMemory {
    float* qkv;
    float* mixed;
    char* packed;
};
struct BlockBytes {
    size_t qkv, mixed, packed;  // of BlockMemory
    size_t task;                // of a task's scratch
};
BlockBytes bytes_of(const BlockData& block, int64_t batch, int64_t tokens, const edgekit_threads* threads);
// x and y (batch, tokens, width), which may be the same; rope may be null. False when memory is short.
bool run_block(const BlockData& block, const float* x, float* y, int64_t batch, int64_t tokens, const edgekit_threads* threads,
               const Rope* rope, const BlockMemory& memory, Slots* slots);

}  // namespace edgekit

struct edgekit_block {
    edgekit::BlockData data;
    std::unique_ptr<edgekit::Memory> weights;
    std::vector<float> norms[4];
};

namespace edgekit {

// Empty when the block is made, else what is wrong with its constants.
std::string make_block(const edgekit_block_spec& spec, std::unique_ptr<edgekit_block>& block);

}  // namespace edgekit
