// Per-token stages of a block: LayerNorm, quantization, GEMM with its epilogue.

// Integers of some tokens: `values` (rows, stride bytes) of the linear's format, real = (q - zero) * scale.
struct Quantized {
    char* values;
    size_t stride;
    float* scale;
    int32_t* zero;
};

static constexpr float smallest = 1.2e-38f;  // a scale below it has no finite inverse: such a token is all zeros

static inline size_t quantized_bytes(const Linear& linear, int rows) {
    return padded((linear.steps * 4 + 64) * size_t(rows), 64) + padded(8 * size_t(rows), 64);
}

static inline Quantized quantized_at(char* scratch, const Linear& linear, int rows) {
    const size_t stride = linear.steps * 4 + 64;  // writes run over by a vector at most
    float* scale = (float*)(scratch + padded(stride * rows, 64));
    return {scratch, stride, scale, (int32_t*)(scale + rows)};
}

template <class Element>
static inline void store_row(const float* x, int n, float inverse, int32_t shift, float low, float high, char* to) {
    for (int i = 0; i < n; i += LANES) {
        const vf q = smaller(splat(high), larger(splat(low), load_up_to(x + i, n - i, 0) * inverse));
        store_integers((Element*)to + i, round_to_int(q) + shift);
    }
}

// What of a token decides its scale; two of them side by side hide the latency of each.
struct Extremes {
    vf low = {}, high = {}, poison = {};  // NaN once a value is not finite
    inline __attribute__((always_inline)) void see(vf v) {
        low = smaller(v, low);
        high = larger(v, high);
        poison += v * 0.0f;
    }
};

// One token of n values -> its integers. levels == 0: uint8 with a zero point, else symmetric int16.
static inline void quantize_row(const float* x, int n, const Linear& linear, Quantized to, int row) {
    Extremes even, odd;
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) even.see(load(x + i)), odd.see(load(x + i + LANES));
    for (; i < n; i += LANES) even.see(load_up_to(x + i, n - i, 0));
    const float top = max_of(larger(even.high, odd.high)), bottom = -max_of(-smaller(even.low, odd.low));
    char* values = to.values + row * to.stride;
    float scale;
    if (linear.levels) {
        scale = (top > -bottom ? top : -bottom) / float(linear.levels);
        if (!(scale >= smallest)) scale = 1;
        store_row<int16_t>(x, n, 1 / scale, 0, -float(linear.levels), float(linear.levels), values);
        to.zero[row] = 0;
    } else {
        scale = (top - bottom) / 255.0f;
        if (!(scale >= smallest)) scale = 1;
        int32_t zero = int32_t(__builtin_rintf(-bottom / scale));
        zero = zero < 0 ? 0 : zero > 255 ? 255 : zero;
        if (linear.format == Format::quads) {
            store_row<uint8_t>(x, n, 1 / scale, zero - activation_offset, -float(zero), float(255 - zero), values);
            to.zero[row] = zero - activation_offset;
        } else {  // pairs hold the difference to the zero point itself
            store_row<int16_t>(x, n, 1 / scale, 0, -float(zero), float(255 - zero), values);
            to.zero[row] = 0;
        }
    }
    to.scale[row] = scale + sum_of(even.poison + odd.poison);
    // What pads the row up to a step meets weights of 0.
}

static inline void normalize_row(const float* x, int n, const Norm& norm, float* y) {
    vf total = {};
    for (int i = 0; i < n; i += LANES) total += load_up_to(x + i, n - i, 0);
    const float mean = sum_of(total) / n;
    vf squares = {};
    for (int i = 0; i < n; i += LANES) {
        vf v = load_up_to(x + i, n - i, mean) - mean;
        squares += v * v;
    }
    const float factor = 1 / __builtin_sqrtf(sum_of(squares) / n + norm.epsilon);
    for (int i = 0; i < n; i += LANES) {
        vf v = (load_up_to(x + i, n - i, mean) - mean) * factor;
        store(y + i, v * load_up_to(norm.weight + i, n - i, 0) + load_up_to(norm.bias + i, n - i, 0));
    }
}

enum class Then { store, gelu, add };

// out (rows, out_stride) = then(x W^T + bias); `add` is the residual, and only real columns of it exist.
template <class Dot, Then then>
static inline void linear_rows(const Linear& linear, Quantized x, int rows, float* out, size_t out_stride,
                               const float* add) {
    auto sink = [&](const char* tile, int row, int some, int column) {
        for (int v = 0; v < VECTORS; ++v) {
            const int c = column + v * LANES;
            const vf scale = load(linear.scale + c), bias = load(linear.bias + c);
            const vi sums = load(linear.sums + c);
            const vf gain = then == Then::gelu && linear.gain ? load(linear.gain + c) : splat(1.0f);
            for (int r = 0; r < some; ++r) {
                vi acc;
                __builtin_memcpy(&acc, tile + (r * VECTORS + v) * sizeof(vi), sizeof acc);
                if constexpr (Dot::group == 4) acc -= x.zero[row + r] * sums;
                vf y = to_float(acc) * (x.scale[row + r] * scale) + bias;
                if constexpr (then == Then::gelu) y = gelu_of(y) * gain;
                float* to = out + (row + r) * out_stride + c;
                if constexpr (then == Then::add) {
                    const int left = linear.out - c;
                    const float* from = add + (row + r) * out_stride + c;
                    if (left >= LANES) {
                        store(to, load(from) + y);
                    } else {
                        for (int i = 0; i < left; ++i) to[i] = from[i] + y[i];
                    }
                } else {
                    store(to, y);
                }
            }
        }
    };
    // Where a tile goes, and what is added to it, is on its way to the first cache while the tile is computed.
    auto ahead = [&](int row, int some, int column) {
        for (int r = row; r < row + some; ++r) {
            fetch<columns, 1>(out + r * out_stride + column);
            if (then == Then::add && add != out) fetch<columns, 0>(add + r * out_stride + column);
        }
    };
    gemm<Dot>(x.values, x.stride, rows, linear.packed, linear.panels, linear.steps, sink, 0, ahead);
}

template <Then then>
static inline void linear_any(const Linear& linear, Quantized x, int rows, float* out, size_t out_stride,
                              const float* add = nullptr) {
    if (linear.format == Format::quads)
        linear_rows<Quads, then>(linear, x, rows, out, out_stride, add);
    else
        linear_rows<Pairs, then>(linear, x, rows, out, out_stride, add);
}

static size_t rows_scratch(const BlockData& block, int rows) {
    const size_t narrow = quantized_bytes(block.qkv, rows), wide = quantized_bytes(block.fc2, rows);
    return padded((block.width + LANES) * sizeof(float), 64) + (narrow > wide ? narrow : wide) +
           padded(size_t(rows) * block.fc1.padded_out() * sizeof(float), 64);
}

static void project(const BlockData& block, const float* x, float* qkv, int rows, char* scratch) {
    float* normed = (float*)scratch;
    scratch += padded((block.width + LANES) * sizeof(float), 64);
    const Quantized input = quantized_at(scratch, block.qkv, rows);
    for (int r = 0; r < rows; ++r) {
        normalize_row(x + size_t(r) * block.width, block.width, block.norm1, normed);
        quantize_row(normed, block.width, block.qkv, input, r);
    }
    linear_any<Then::store>(block.qkv, input, rows, qkv, block.qkv.padded_out());
}

static void finish(const BlockData& block, const float* x, const float* mixed, float* y, int rows, char* scratch) {
    const size_t width = block.width;
    float* normed = (float*)scratch;
    scratch += padded((width + LANES) * sizeof(float), 64);
    float* hidden = (float*)scratch;
    const size_t hidden_stride = block.fc1.padded_out();
    scratch += padded(rows * hidden_stride * sizeof(float), 64);

    Quantized input = quantized_at(scratch, block.proj, rows);
    for (int r = 0; r < rows; ++r) quantize_row(mixed + r * width, block.width, block.proj, input, r);
    linear_any<Then::add>(block.proj, input, rows, y, width, x);

    input = quantized_at(scratch, block.fc1, rows);
    for (int r = 0; r < rows; ++r) {
        normalize_row(y + r * width, block.width, block.norm2, normed);
        quantize_row(normed, block.width, block.fc1, input, r);
    }
    linear_any<Then::gelu>(block.fc1, input, rows, hidden, hidden_stride);

    input = quantized_at(scratch, block.fc2, rows);
    for (int r = 0; r < rows; ++r) quantize_row(hidden + r * hidden_stride, block.hidden, block.fc2, input, r);
    linear_any<Then::add>(block.fc2, input, rows, y, width, y);
}

static void gemm_only(const Linear& linear, const char* activations, float* out, int rows) {
    auto sink = [&](const char* tile, int row, int some, int column) {
        for (int r = 0; r < some; ++r)
            __builtin_memcpy(out + size_t(row + r) * linear.padded_out() + column, tile + r * columns * 4, columns * 4);
    };
    const size_t stride = linear.steps * 4 + 64;
    if (linear.format == Format::quads)
        gemm<Quads>(activations, stride, rows, linear.packed, linear.panels, linear.steps, sink);
    else
        gemm<Pairs>(activations, stride, rows, linear.packed, linear.panels, linear.steps, sink);
}
