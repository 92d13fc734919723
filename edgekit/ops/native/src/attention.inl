// Attention of a block of queries against all keys of one head, tile by tile of keys, as online softmax.

// What the products are made of, by mode; see reference.py for the levels.
struct FloatMode {
    using Scores = Floats;
    using Mixing = Floats;
    static constexpr int keys = 320, score_levels = 0, probability_levels = 0, value_levels = 0;
};
struct HybridMode {
    using Scores = Pairs;
    using Mixing = Pairs;
    static constexpr int keys = 320, score_levels = 1023, probability_levels = 3200, value_levels = 2047;
};
struct U8Mode {
    using Scores = FullQuads;
    using Mixing = UnsignedQuads;
    static constexpr int keys = 64, score_levels = 127, probability_levels = 255, value_levels = 127;
};
static_assert(int64_t{HybridMode::score_levels} * HybridMode::score_levels * max_head_dim < int64_t{1} << 31);
static_assert(int64_t{HybridMode::probability_levels} * HybridMode::value_levels * HybridMode::keys < int64_t{1} << 31);

// Quads take unsigned activations: queries are stored with 128 added, and 128 * sum(k) comes off again.
template <class Mode>
static constexpr int query_offset = Mode::Scores::group == 4 && !activation_offset ? 128 : 0;

// Keys (panels of 16 keys, steps along the head) and values (panels of 16 channels, steps along the keys) of one head.
struct HeadLayout {
    int key_panels, key_steps, value_panels, value_steps;
    size_t key_scale, key_sums, value_scale, values, bytes;
};

template <class Mode>
static inline HeadLayout layout_of(const Attention& a) {
    HeadLayout h;
    const int keys = int(padded(a.tokens, Mode::keys));
    h.key_panels = keys / panel_outputs;
    h.key_steps = (a.dim + Mode::Scores::group - 1) / Mode::Scores::group;
    h.value_panels = int(padded(a.dim, 32)) / panel_outputs;
    h.value_steps = keys / Mode::Mixing::group;
    h.key_scale = h.key_panels * h.key_steps * step_bytes;
    h.key_sums = h.key_scale + keys * sizeof(float);
    h.value_scale = h.key_sums + keys * sizeof(int32_t);
    h.values = h.value_scale + h.value_panels * panel_outputs * sizeof(float);
    h.bytes = h.values + h.value_panels * h.value_steps * step_bytes;
    return h;
}

static inline float usable(float scale) { return scale >= smallest ? scale : 1; }
static inline vf magnitude(vf v) { return v > 0.0f ? v : -v; }

// 4 bytes of every step of one output's weights, from a row that holds them in order.
static inline void scatter(const void* row, int steps, char* panel) {
    for (int s = 0; s < steps; ++s) __builtin_memcpy(panel + s * step_bytes, (const char*)row + s * 4, 4);
}

// Where output `index` begins in panels of `steps` steps.
static inline char* column_at(char* panels, int index, int steps) {
    return panels + size_t(index / panel_outputs) * steps * step_bytes + index % panel_outputs * 4;
}

// Keys less their mean, an integer scale for each; k (tokens, stride).
template <class Mode>
static inline void pack_keys(const Attention& a, const float* k, const HeadLayout& h, char* packed) {
    constexpr int group = Mode::Scores::group;
    float* key_scale = (float*)(packed + h.key_scale);
    int32_t* key_sums = (int32_t*)(packed + h.key_sums);
    alignas(64) float mean[max_head_dim + 2 * LANES] = {}, centred[max_head_dim + 2 * LANES];
    alignas(64) int16_t integers[max_head_dim + 2 * LANES] = {};
    const int dim = a.dim;
    for (int d = 0; d < dim; d += LANES) {
        vf total = {};
        for (int token = 0; token < a.tokens; ++token) total += load_up_to(k + token * a.stride + d, dim - d, 0);
        store(mean + d, total / float(a.tokens));
    }
    for (int token = 0; token < a.tokens; ++token) {
        const float* from = k + token * a.stride;
        vf high = {}, poison = {};
        for (int d = 0; d < dim; d += LANES) {
            const vf v = load_up_to(from + d, dim - d, 0) - load(mean + d);
            high = larger(magnitude(v), high);
            poison += v * 0.0f;
            store(centred + d, v);
        }
        const float scale = usable(max_of(high) / Mode::score_levels), inverse = 1 / scale;
        vi total = {};
        for (int d = 0; d < dim; d += LANES) {
            vi q = round_to_int(load(centred + d) * inverse);
            q = q > Mode::score_levels ? splat(Mode::score_levels) : q;
            q = q < -Mode::score_levels ? splat(-Mode::score_levels) : q;
            total += q;
            if constexpr (group == 4) store_integers((uint8_t*)integers + d, q);
            else store_integers(integers + d, q);
        }
        scatter(integers, h.key_steps, column_at(packed, token, h.key_steps));
        key_scale[token] = scale + sum_of(poison);
        key_sums[token] = query_offset<Mode> * int32_t(sum_of(to_float(total)));  // below 2^24: exact
    }
}

// Values with an integer scale for each channel; a step holds `group` tokens of 16 channels. v (tokens, stride).
template <class Mode>
static inline void pack_values(const Attention& a, const float* v, const HeadLayout& h, char* packed) {
    constexpr int group = Mode::Mixing::group, bits = 32 / group, mask = bits == 8 ? 255 : 65535;
    for (int d = 0; d < h.value_panels * panel_outputs; d += LANES) {
        vf top = {}, poison = {};
        for (int token = 0; token < a.tokens; ++token) {
            const vf x = load_up_to(v + token * a.stride + d, a.dim - d, 0);
            top = larger(magnitude(x), top);
            poison += x * 0.0f;
        }
        vf scale = top / float(Mode::value_levels);
        scale = scale >= smallest ? scale : splat(1.0f);
        const vf inverse = 1.0f / scale;
        store((float*)(packed + h.value_scale) + d, scale + poison);
        char* to = column_at(packed + h.values, d, h.value_steps);
        for (int first = 0; first < a.tokens; first += group) {
            vi step = {};
            for (int i = 0; i < group && first + i < a.tokens; ++i) {
                vi q = round_to_int(load_up_to(v + (first + i) * a.stride + d, a.dim - d, 0) * inverse);
                q = q > Mode::value_levels ? splat(Mode::value_levels) : q;
                q = q < -Mode::value_levels ? splat(-Mode::value_levels) : q;
                step |= (q & mask) << (i * bits);
            }
            __builtin_memcpy(to + size_t(first / group) * step_bytes, &step, sizeof step);
        }
    }
}

template <class Mode>
static void pack_head(const Attention& a, int image, int head, char* packed) {
    const HeadLayout h = layout_of<Mode>(a);
    const float* k = a.qkv + size_t(image) * a.tokens * a.stride + a.width + head * a.dim;
    const float* v = k + a.width;
    const int keys = h.key_panels * panel_outputs;
    if constexpr (Mode::probability_levels == 0) {
        for (int token = 0; token < keys; ++token) {
            char* to = column_at(packed, token, h.key_steps);
            if (token < a.tokens) scatter(k + token * a.stride, a.dim, to);
            else for (int d = 0; d < a.dim; ++d) __builtin_memset(to + d * step_bytes, 0, 4);
        }
        for (int d = 0; d < h.value_panels * panel_outputs; d += LANES) {
            char* to = column_at(packed + h.values, d, keys);
            for (int token = 0; token < keys; ++token) {
                const vf x = token < a.tokens ? load_up_to(v + token * a.stride + d, a.dim - d, 0) : vf{};
                store((float*)(to + token * step_bytes), x);
            }
        }
    } else {
        // Keys that pad the last tile have the scale 0 and probabilities of 0.
        const int last = a.tokens / panel_outputs * panel_outputs;
        if (last < keys) {
            __builtin_memset(packed + size_t(last) / panel_outputs * h.key_steps * step_bytes, 0,
                             size_t(keys - last) / panel_outputs * h.key_steps * step_bytes);
            __builtin_memset(packed + h.key_scale, 0, h.value_scale - h.key_scale);
        }
        pack_keys<Mode>(a, k, h, packed);
        pack_values<Mode>(a, v, h, packed);
    }
}

static constexpr int query_block = 4 * ROWS;

struct AttendScratch {
    size_t query_stride, query_scale, scores, probabilities, sums, out, bytes;
};

template <class Mode>
static inline AttendScratch scratch_of(const Attention& a) {
    AttendScratch s;
    s.query_stride = padded(a.dim * 4, 64) + 64;
    s.query_scale = s.query_stride * query_block;
    s.scores = s.query_scale + padded(query_block * 4, 64);
    s.probabilities = s.scores + query_block * Mode::keys * 4;
    s.sums = s.probabilities + query_block * (Mode::keys * 4 + 64);
    s.out = s.sums + padded(query_block * 16, 64);
    s.bytes = s.out + query_block * padded(a.dim, 32) * 4;
    return s;
}

// q of the block, times scale * log2(e): exponents are powers of two from here on.
template <class Mode>
static inline void load_queries(const Attention& a, const float* q, int rows, char* to, size_t stride, float* scales) {
    const float factor = a.scale * 1.4426950408889634f;
    for (int r = 0; r < rows; ++r, q += a.stride, to += stride) {
        if constexpr (Mode::probability_levels == 0) {
            for (int d = 0; d < a.dim; ++d) ((float*)to)[d] = q[d] * factor;
        } else {
            vf high = {}, poison = {};
            for (int d = 0; d < a.dim; d += LANES) {
                const vf v = load_up_to(q + d, a.dim - d, 0);
                high = larger(magnitude(v), high);
                poison += v * 0.0f;
            }
            constexpr int levels = Mode::score_levels;
            [[maybe_unused]] constexpr int offset = query_offset<Mode>;
            const float scale = usable(max_of(high) / levels);
            if constexpr (Mode::Scores::group == 4)
                store_row<uint8_t>(q, a.dim, 1 / scale, offset, offset - levels, offset + levels, to);
            else
                store_row<int16_t>(q, a.dim, 1 / scale, 0, -levels, levels, to);
            scales[r] = scale * factor + sum_of(poison);
        }
    }
}
