// Interface of the unit of each instruction set to the ISA-neutral part, and the data they share.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "edgekit_ops.h"

namespace edgekit {

// Packing of the weights of a linear layer; the name says activations x weights. Weights stand in panels of 16
// outputs; one step of a panel is 64 bytes: for each output a group of 4 bytes. PackedLinear (pack.cpp) packs a format, the
// panels policy of a unit (gemm.inl) multiplies it.
enum class Format {
    u8s8,          // 4 int8 weights that meet 4 uint8 activations
    u8s8_chained,  // the same in an order in which no 16-bit sum saturates: chains.h
    u8s8_tiles,    // the same, steps padded to a multiple of 16: 16 steps are one B tile of AMX
    s16s8_tiles,   // the same bytes, which meet int16 activations as two planes of bytes
    s16s16,        // 2 weights widened to int16 that meet 2 int16 activations
    f32,           // a float
};
inline constexpr int panel_outputs = 16;
inline constexpr size_t step_bytes = 64;
inline constexpr int tile_steps = 16;  // of one AMX tile
inline constexpr int longest_chain = 4;
inline constexpr int chain_window = 768;  // inputs that the chains of a window meet: some rows of them fit L1d

inline constexpr bool is_tiled(Format format) { return format == Format::u8s8_tiles || format == Format::s16s8_tiles; }
// Activations are uint8 with a zero point; s16s16 holds the difference to it.
inline constexpr bool has_zero_points(Format format) {
    return format == Format::u8s8 || format == Format::u8s8_chained || format == Format::u8s8_tiles;
}

inline constexpr size_t rounded(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The steps of a panel that meet one window of the inputs.
struct ChainedSteps {
    uint32_t first;
    uint32_t chains[longest_chain];  // how many of 1, 2, ... steps; the longest come first
};

struct Linear {
    int in = 0, out = 0;
    int steps = 0;              // of 4 activation bytes
    int panels = 0;             // even: outputs are padded with zeros to a multiple of 32
    int levels = 0;             // of quality-tier activations on either side of 0; 0 is the speed tier
    Format format = Format::s16s16;
    const char* packed = nullptr;       // panels * steps * 64 bytes; of chains, what `chained` says
    const ChainedSteps* chained = nullptr;  // of each window of each panel
    const uint32_t* order = nullptr;    // byte offset in a row of the activations that a chained step meets
    const float* scale = nullptr;       // (padded out); of integers, as are the sums
    const float* bias = nullptr;        // (padded out)
    const float* gain = nullptr;        // (padded out) or null
    const int32_t* sums = nullptr;      // (padded out): sum of an output's weights
    int windows() const { return (in + chain_window - 1) / chain_window; }
    int padded_out() const { return panels * panel_outputs; }
    size_t plane_bytes() const { return size_t(steps) * 4; }
    // Bytes from one row of activations to the next. The stride is never a multiple of 4096: rows would share cache sets,
    // and a tile stored so takes 7 times as long.
    size_t row_stride() const {
        const size_t stride = plane_bytes() * (format == Format::s16s8_tiles ? 2 : 1) + 64;
        return stride % 4096 ? stride : stride + 64;
    }
};

struct Norm {
    const float *weight = nullptr, *bias = nullptr;
    float epsilon = 0;
};

struct BlockData {
    int width = 0, hidden = 0, heads = 0;
    bool gated = false;  // SwiGLU: fc1's outputs are gates and values in turns, half a tile of columns of each
    float scale = 1;
    int attention = 0;  // edgekit_attention_mode
    Norm norm1, norm2;
    Linear qkv, proj, fc1, fc2;
};

// Rotary positions: tables (tokens, dim / 2) of the tokens from `first` on.
struct Rope {
    const float *cos = nullptr, *sin = nullptr;
    int first = 0;
};

struct Attention {
    const float* qkv = nullptr;  // (batch, tokens, stride): q, k, v of all heads beside each other
    float* out = nullptr;        // (batch, tokens, width)
    int tokens = 0, width = 0, heads = 0, dim = 0;
    size_t stride = 0;
    float scale = 1;
    int mode = 0;
};

struct Kernels {
    const char* name;
    Format formats[2];     // by edgekit_tier: EDGEKIT_SPEED, EDGEKIT_QUALITY
    int attention[2];      // edgekit_attention_mode of a block of that tier
    int columns;           // of a tile of sums
    int row_multiple;      // rows of a task: a multiple of this, but for the last
    // Asks the system for what the instructions need, once; false where it refuses. Null: nothing to ask for.
    bool (*enter)();
    size_t (*rows_scratch)(const BlockData&, int rows);
    // norm1, quantization and qkv projection of `rows` tokens: (rows, width) -> (rows, qkv.padded_out())
    void (*project)(const BlockData&, const float* x, float* qkv, int rows, char* scratch);
    // all that follows attention: x, mixed, y (rows, width)
    void (*finish)(const BlockData&, const float* x, const float* mixed, float* y, int rows, char* scratch);
    // Queries and keys of `rows` tokens in qkv (rows, stride), beginning with token `token` of an image
    void (*rotate)(const Attention&, const Rope&, float* qkv, int token, int rows);
    int (*query_rows)(const Attention&);  // of one attention task
    size_t (*head_bytes)(const Attention&);
    void (*pack_head)(const Attention&, int image, int head, char* packed);
    size_t (*attend_scratch)(const Attention&);
    void (*attend)(const Attention&, int image, int head, int first_row, int rows, const char* packed, char* scratch);
    double (*ceiling)(Format, int rounds);  // multiply-accumulates of `rounds` rounds in registers, for the benchmarks
    // Sums alone: rows of activations, row_stride() apart, give rows of padded_out().
    void (*gemm)(const Linear&, const char* activations, float* out, int rows);
};

const Kernels& active_kernels();
// Names of the units that this CPU can run, best first, separated by spaces.
const char* kernels_available();

}  // namespace edgekit
