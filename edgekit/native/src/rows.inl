// Per-token stages of a block: LayerNorm, quantization, GEMM with its epilogue.

// Quantized activations of a tile of rows: `values` (rows, stride bytes) in the linear layer's format, real = (q - zero) *
// scale with one scale and zero point per row. Of floats there are the values alone.
struct Input {
    const char* values;
    size_t stride;
    float* scale;
    int32_t* zero;
};

static constexpr float smallest = 1.2e-38f;  // a scale below it has no finite inverse: such a token is all zeros

static inline size_t input_bytes(const Linear& linear, int rows) {
    return padded(linear.row_stride() * padded(rows, row_multiple), 64) + padded(8 * size_t(rows), 64);
}

// The low and the high bytes of int16 in two planes: what tiles multiply. q = 256 * high + low, high signed.
static inline void store_planes(const float* x, int n, float inverse, float levels, char* low, char* high) {
    for (int i = 0; i < n; i += LANES) {
        const vf q = between(load_up_to(x + i, n - i, 0) * inverse, -levels, levels);
        const vi integers = round_to_int(q);
        store_integers((uint8_t*)low + i, integers & 255);
        store_integers((uint8_t*)high + i, (integers >> 8) & 255);
    }
}

template <class Element>
static inline void store_row(const float* x, int n, float inverse, int32_t shift, float low, float high, char* to) {
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        vf v[4];
        for (int j = 0; j < 4; ++j) v[j] = load(x + i + j * LANES) * inverse;
        if constexpr (sizeof(Element) == 1) {  // cuts what is a step outside
            store_bytes<activation_offset != 0>((uint8_t*)to + i, round_to_int(v[0]), round_to_int(v[1]), round_to_int(v[2]),
                                                round_to_int(v[3]), shift);
        } else {
            for (int j = 0; j < 4; j += 2)
                store_integers((Element*)to + i + j * LANES, round_to_int(between(v[j], low, high)),
                               round_to_int(between(v[j + 1], low, high)));
        }
    }
    for (; i < n; i += LANES) {
        const vf q = between(load_up_to(x + i, n - i, 0) * inverse, low, high);
        store_integers((Element*)to + i, round_to_int(q) + shift);
    }
}

// Minimum and maximum of a token, which decide its scale.
struct Extremes {
    vf low = {}, high = {}, poison = {};  // NaN once a value is not finite
    inline __attribute__((always_inline)) void see(vf v) {
        low = smaller(v, low);
        high = larger(v, high);
        poison += v * 0.0f;
    }
};

// Range of a token of n values; several accumulators side by side hide the latency of each.
struct Range {
    Extremes parts[4];
    inline __attribute__((always_inline)) void see_all(const float* x, int n) {
        int i = 0;
        for (; i + 4 * LANES <= n; i += 4 * LANES)
            for (int j = 0; j < 4; ++j) parts[j].see(load(x + i + j * LANES));
        for (; i < n; i += LANES) parts[0].see(load_up_to(x + i, n - i, 0));
    }
    float top() const { return max_of(larger(larger(parts[0].high, parts[1].high), larger(parts[2].high, parts[3].high))); }
    float bottom() const {
        return -max_of(-smaller(smaller(parts[0].low, parts[1].low), smaller(parts[2].low, parts[3].low)));
    }
    float poison() const { return sum_of((parts[0].poison + parts[1].poison) + (parts[2].poison + parts[3].poison)); }
};

// One token of n values -> its integers. levels == 0: uint8 with a zero point, else symmetric int16.
static inline void quantize_row(const float* x, int n, const Range& range, const Linear& linear, char* values, float& to_scale,
                                int32_t& to_zero) {
    const float top = range.top(), bottom = range.bottom();
    float scale;
    if (linear.levels) {
        scale = (top > -bottom ? top : -bottom) / float(linear.levels);
        if (!(scale >= smallest)) scale = 1;
        const float levels = float(linear.levels);
        if (linear.format == Format::s16s8_tiles) store_planes(x, n, 1 / scale, levels, values, values + linear.plane_bytes());
        else store_row<int16_t>(x, n, 1 / scale, 0, -levels, levels, values);
        to_zero = 0;
    } else {
        scale = (top - bottom) / 255.0f;
        if (!(scale >= smallest)) scale = 1;
        const float point = __builtin_rintf(-bottom / scale);
        const int32_t zero = point > 0 ? int32_t(point < 255 ? point : 255) : 0;  // NaN is 0: its scale says NaN
        if (has_zero_points(linear.format)) {
            store_row<uint8_t>(x, n, 1 / scale, zero - activation_offset, -float(zero), float(255 - zero), values);
            to_zero = zero - activation_offset;
        } else {  // int16 holds the difference to the zero point itself
            store_row<int16_t>(x, n, 1 / scale, 0, -float(zero), float(255 - zero), values);
            to_zero = 0;
        }
    }
    to_scale = scale + range.poison();
    // The padding of the row up to a step meets weights of 0.
}

// Sum of term(v) over n values, `rest` beyond them.
template <class Term>
static inline float total_of(const float* x, int n, float rest, Term&& term) {
    vf totals[4] = {};
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int j = 0; j < 4; ++j) totals[j] += term(load(x + i + j * LANES));
    for (; i < n; i += LANES) totals[0] += term(load_up_to(x + i, n - i, rest));
    return sum_of((totals[0] + totals[1]) + (totals[2] + totals[3]));
}

// LayerNorm of a token, and the range of what it becomes.
static inline Range normalize_row(const float* x, int n, const Norm& norm, float* y) {
    const float mean = total_of(x, n, 0, [](vf v) { return v; }) / n;
    const float squares = total_of(x, n, mean, [&](vf v) { return (v - mean) * (v - mean); });
    const float factor = 1 / __builtin_sqrtf(squares / n + norm.epsilon);
    Range range;
    int i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int j = 0; j < 4; ++j) {
            const int k = i + j * LANES;
            const vf v = (load(x + k) - mean) * factor * load(norm.weight + k) + load(norm.bias + k);
            store(y + k, v);
            range.parts[j].see(v);
        }
    for (; i < n; i += LANES) {
        const vf v = (load_up_to(x + i, n - i, mean) - mean) * factor;
        const vf scaled = v * load_up_to(norm.weight + i, n - i, 0) + load_up_to(norm.bias + i, n - i, 0);
        store(y + i, scaled);
        range.parts[0].see(scaled);
    }
    return range;
}

// Room for the input of a linear layer in `scratch`.
struct InputSpace {
    char* values;
    size_t stride;
    float* scale;
    int32_t* zero;
    InputSpace(const Linear& linear, int rows, char* scratch) : values(scratch), stride(linear.row_stride()) {
        // Writes run over a row by a vector at most; a tile reads up to a multiple of its rows.
        scale = (float*)(scratch + padded(stride * padded(rows, row_multiple), 64));
        zero = (int32_t*)(scale + rows);
    }
    operator Input() const { return {values, stride, scale, zero}; }
};

// Tokens x (rows, linear.in), `stride` apart, as the linear layer takes them: floats are used where they stand.
static inline Input input_of(const Linear& linear, const float* x, size_t stride, int rows, char* scratch) {
    if (linear.format == Format::f32) return {(const char*)x, stride * sizeof(float), nullptr, nullptr};
    const InputSpace to(linear, rows, scratch);
    for (int r = 0; r < rows; ++r) {
        Range range;
        range.see_all(x + r * stride, linear.in);
        quantize_row(x + r * stride, linear.in, range, linear, to.values + r * to.stride, to.scale[r], to.zero[r]);
    }
    return to;
}

// The same of normalized tokens.
static inline Input normalized(const Linear& linear, const Norm& norm, const float* x, int rows, float* row, char* scratch) {
    const InputSpace to(linear, rows, scratch);
    const int n = linear.in;
    for (int r = 0; r < rows; ++r) {
        char* values = to.values + r * to.stride;
        if (linear.format == Format::f32) {
            normalize_row(x + size_t(r) * n, n, norm, (float*)values);
        } else {
            const Range range = normalize_row(x + size_t(r) * n, n, norm, row);
            quantize_row(row, n, range, linear, values, to.scale[r], to.zero[r]);
        }
    }
    return to;
}

// Calls call(panels) with the policy of the linear layer: by its tier, as the unit has chosen.
template <class Call>
static inline void with_panels(const Linear& linear, Call&& call) {
    if (linear.format == Format::f32) return call(PanelsF32(linear));
    if (linear.levels) return call(PanelsS16S8(linear));
    call(PanelsU8S8(linear));
}

// LANES outputs of a linear layer: from sums to what they stand for.
template <class Panels>
struct Channel {
    static constexpr bool floats = Panels::format == Format::f32;
    vf bias, scale;
    vi weights;  // the sum of each output's
    Channel(const Linear& linear, int c)
        : bias(load(linear.bias + c)), scale(floats ? vf{} : load(linear.scale + c)), weights(floats ? vi{} : load(linear.sums + c)) {}

    vf real(const char* sums, const Input& x, int row) const {
        typename Panels::acc acc;
        __builtin_memcpy(&acc, sums, sizeof acc);
        if constexpr (has_zero_points(Panels::format)) acc -= x.zero[row] * weights;
        if constexpr (floats) return acc + bias;
        else return to_float(acc) * (x.scale[row] * scale) + bias;
    }
};

enum class Then { store, gelu, swiglu, add };

// out (rows, out_stride) = then(x W^T + bias); `add` is the residual, and only real columns of it exist. SwiGLU makes one
// column of two: the first half of a tile are gates, the other half their values.
template <Then then, class Panels>
static inline void linear_rows(const Panels& panels, const Linear& linear, Input x, int rows, float* out, size_t out_stride,
                               const float* add) {
    constexpr int vectors = then == Then::swiglu ? VECTORS / 2 : VECTORS, shrink = VECTORS / vectors;
    auto sink = [&](const char* tile, int row, int some, int column) {
        for (int v = 0; v < vectors; ++v) {
            const Channel<Panels> channel(linear, column + v * LANES);
            const Channel<Panels> value(linear, column + (then == Then::swiglu ? v + vectors : v) * LANES);
            const vf gain = then == Then::gelu && linear.gain ? load(linear.gain + column + v * LANES) : splat(1.0f);
            const int c = column / shrink + v * LANES;
            for (int r = 0; r < some; ++r) {
                const char* sums = tile + (r * VECTORS + v) * sizeof(vi);
                vf y = channel.real(sums, x, row + r);
                if constexpr (then == Then::gelu) y = gelu_of(y) * gain;
                if constexpr (then == Then::swiglu) y = silu_of(y) * value.real(sums + vectors * sizeof(vi), x, row + r);
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
    // Prefetch into L1d, while a tile is computed, of where it goes and of what is added to it.
    auto ahead = [&](int row, int some, int column) {
        for (int r = row; r < row + some; ++r) {
            fetch<columns / shrink, 1>(out + r * out_stride + column / shrink);
            if (then == Then::add && add != out) fetch<columns, 0>(add + r * out_stride + column);
        }
    };
    panels.multiply_rows(x.values, x.stride, rows, sink, ahead);
}

template <Then then>
static inline void linear_any(const Linear& linear, Input x, int rows, float* out, size_t out_stride,
                              const float* add = nullptr) {
    with_panels(linear, [&](const auto& panels) { linear_rows<then>(panels, linear, x, rows, out, out_stride, add); });
}

static size_t rows_scratch(const BlockData& block, int rows) {
    const size_t hidden_width = block.fc1.padded_out() / (block.gated ? 2 : 1);
    size_t most = 0;  // some may be floats beside integers
    const Linear* const all[] = {&block.qkv, &block.proj, &block.fc1, &block.fc2};
    for (const Linear* linear : all)
        most = most > input_bytes(*linear, rows) ? most : input_bytes(*linear, rows);
    return padded((block.width + LANES) * sizeof(float), 64) + most + padded(rows * hidden_width * sizeof(float), 64);
}

static void project(const BlockData& block, const float* x, float* qkv, int rows, char* scratch) {
    float* row = (float*)scratch;
    scratch += padded((block.width + LANES) * sizeof(float), 64);
    const Input input = normalized(block.qkv, block.norm1, x, rows, row, scratch);
    linear_any<Then::store>(block.qkv, input, rows, qkv, block.qkv.padded_out());
}

static void finish(const BlockData& block, const float* x, const float* mixed, float* y, int rows, char* scratch) {
    const size_t width = block.width, hidden_width = block.fc1.padded_out() / (block.gated ? 2 : 1);
    float* row = (float*)scratch;
    scratch += padded((width + LANES) * sizeof(float), 64);
    float* hidden = (float*)scratch;
    scratch += padded(rows * hidden_width * sizeof(float), 64);

    linear_any<Then::add>(block.proj, input_of(block.proj, mixed, width, rows, scratch), rows, y, width, x);
    const Input input = normalized(block.fc1, block.norm2, y, rows, row, scratch);
    if (block.gated) linear_any<Then::swiglu>(block.fc1, input, rows, hidden, hidden_width);
    else linear_any<Then::gelu>(block.fc1, input, rows, hidden, hidden_width);
    linear_any<Then::add>(block.fc2, input_of(block.fc2, hidden, hidden_width, rows, scratch), rows, y, width, y);
}

static void rotate(const Attention& a, const Rope& rope, float* qkv, int token, int rows) {
    const int half = a.dim / 2;
    for (int r = 0; r < rows; ++r, qkv += a.stride) {
        const int place = (token + r) % a.tokens - rope.first;
        if (place < 0) continue;
        const float *cos = rope.cos + size_t(place) * half, *sin = rope.sin + size_t(place) * half;
        for (int head = 0; head < 2 * a.heads; ++head) {  // keys follow the queries
            float *low = qkv + (head / a.heads) * a.width + (head % a.heads) * a.dim, *high = low + half;
            for (int d = 0; d < half; d += LANES) {
                const int left = half - d;
                const vf c = load_up_to(cos + d, left, 0), s = load_up_to(sin + d, left, 0);
                const vf x = load_up_to(low + d, left, 0), y = load_up_to(high + d, left, 0);
                store_up_to(low + d, x * c - y * s, left);
                store_up_to(high + d, y * c + x * s, left);
            }
        }
    }
}

static void gemm_only(const Linear& linear, const char* activations, float* out, int rows) {
    auto sink = [&](const char* tile, int row, int some, int column) {
        for (int r = 0; r < some; ++r)
            __builtin_memcpy(out + size_t(row + r) * linear.padded_out() + column, tile + r * columns * 4, columns * 4);
    };
    with_panels(linear, [&](const auto& panels) { panels.multiply_rows(activations, linear.row_stride(), rows, sink); });
}

static double ceiling(Format format, int rounds) {
    if (format == Format::f32) return PanelsF32::ceiling(rounds);
    return format == PanelsU8S8::format ? PanelsU8S8::ceiling(rounds) : PanelsS16S8::ceiling(rounds);
}
