// A model as the kernels want it: read from a container, its weights packed, never changed afterwards.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block.h"
#include "container.h"
#include "image.h"
#include "positions.h"
#include "program.h"

namespace edgekit {

// A float linear layer outside the blocks, packed.
struct FloatLinear {
    Linear view;
    std::unique_ptr<Memory> weights;
    // From a matrix (in, out), bias (out) or null for zeros.
    void pack(const float* matrix, const float* bias, int in, int out);
};

struct LayerNorm {
    std::vector<float> weight, bias;
    float epsilon = 0;
    // x and y (rows, width), which may be the same.
    void run(const float* x, float* y, int rows) const;
};

using Release = void (*)(const void* first, size_t size);

struct Network {
    int width = 0, depth = 0, heads = 0, hidden = 0, registers = 0, patch = 0;
    int32_t tier = 0;
    bool gated = false, rotary = false;
    float epsilon = 0;
    Grid grid;  // that the model was built for
    Interpolation interpolation = Interpolation::offset;
    std::vector<double> periods;  // of rotary positions

    FloatLinear embedding;             // (3 * patch * patch) -> width
    std::vector<float> prefix;         // (1 + registers, width): class token with its position, registers
    std::vector<float> positions;      // (patches of `grid`, width), learned
    std::vector<float> cosines, sines; // (patches of `grid`, head dimension / 2), rotary
    std::vector<std::unique_ptr<edgekit_block>> blocks;
    std::unique_ptr<FloatLinear> unrotate;
    LayerNorm norm;

    Transform transform;  // of the pictures of `grid`
    std::vector<Program> programs;
    std::vector<float> golden;  // pooler_output of the FP32 model for the golden picture
    float least_cosine = 0;
    std::string description;

    int first_patch() const { return 1 + registers; }
    int64_t tokens(Grid of) const { return first_patch() + of.patches(); }
    int head_dim() const { return width / heads; }

    // Empty, or why the file is refused. `threads` pack the blocks in parallel; null: the calling thread. `release` is told of bytes that
    // are not needed any more.
    std::string read(const char* bytes, size_t size, const edgekit_threads* threads, Release release = nullptr);

private:
    void read_shape(const Json& description, Reader& reader);
    void read_transform(const Json& description, Reader& reader);
    void read_tokens(Reader& reader);
    void read_end(const Json& description, Reader& reader);
    std::string read_block(int index, Reader& reader, Release release);
    std::string read_blocks(const Container& container, const edgekit_threads* threads, Release release);
};

}  // namespace edgekit
