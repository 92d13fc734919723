// What the units of each instruction set offer to the ISA-neutral part, and the data they share.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "edgekit_ops.h"

namespace edgekit {

// Weights are packed in panels of 16 outputs; one step of a panel is 64 bytes: for each output a group of 4 bytes,
// either 4 int8 weights that meet 4 uint8 activations (quads), or 2 int16 that meet 2 int16 (pairs), or a float.
// Chains are quads in another order: chains.h.
enum class Format { quads, chains, pairs, floats };
inline constexpr int panel_outputs = 16;
inline constexpr size_t step_bytes = 64;
inline constexpr int longest_chain = 4;
inline constexpr int chain_window = 768;  // inputs that the chains of a window meet: some rows of them fit the first cache

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
    Format format = Format::pairs;
    const char* packed = nullptr;       // panels * steps * 64 bytes; of chains, what `chained` says
    const ChainedSteps* chained = nullptr;  // of each window of each panel
    const uint32_t* order = nullptr;    // of a chained step: where its activations are in a row, in bytes
    const float* scale = nullptr;       // (padded out); of integers, as are the sums
    const float* bias = nullptr;        // (padded out)
    const float* gain = nullptr;        // (padded out) or null
    const int32_t* sums = nullptr;      // (padded out): sum of an output's weights
    int windows() const { return (in + chain_window - 1) / chain_window; }
    int padded_out() const { return panels * panel_outputs; }
};

struct Norm {
    const float *weight = nullptr, *bias = nullptr;
    float epsilon = 0;
};

struct BlockData {
    int width = 0, hidden = 0, heads = 0;
    float scale = 1;
    int attention = 0;  // edgekit_attention_mode
    Norm norm1, norm2;
    Linear qkv, proj, fc1, fc2;
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
    Format (*format)(bool speed);
    size_t (*rows_scratch)(const BlockData&, int rows);
    // norm1, quantization and qkv projection of `rows` tokens: (rows, width) -> (rows, qkv.padded_out())
    void (*project)(const BlockData&, const float* x, float* qkv, int rows, char* scratch);
    // all that follows attention: x, mixed, y (rows, width)
    void (*finish)(const BlockData&, const float* x, const float* mixed, float* y, int rows, char* scratch);
    int query_rows;  // of one attention task
    size_t (*head_bytes)(const Attention&);
    void (*pack_head)(const Attention&, int image, int head, char* packed);
    size_t (*attend_scratch)(const Attention&);
    void (*attend)(const Attention&, int image, int head, int first_row, int rows, const char* packed, char* scratch);
    // For the benchmarks: multiply-accumulates of `rounds` rounds in registers; one GEMM on packed data.
    double (*ceiling)(Format, int rounds);
    void (*gemm)(const Linear&, const char* activations, float* out, int rows);
};

// Null where the build or the CPU lacks it.
const Kernels* kernels_base();
const Kernels* kernels_avx2();
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx512vnni();
const Kernels* kernels_neon_dotprod();
const Kernels* kernels_neon_i8mm();

const Kernels& active_kernels();
size_t kernels_count();
const Kernels* kernels_at(size_t i);  // best first; null where unusable

inline constexpr size_t rounded(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

}  // namespace edgekit
