// One head's keys, values and queries in the number formats of each attention mode.

// Number formats of the two products of each mode; see reference.py for the levels.
struct FloatMode {
    using Scores = DotF32;
    using Mixing = DotF32;
    static constexpr int keys = 320, score_levels = 0, probability_levels = 0, value_levels = 0;
};
struct WordMode {
    using Scores = DotS16;
    using Mixing = DotS16;
    static constexpr int keys = 320, score_levels = 1023, probability_levels = 3200, value_levels = 2047;
};
struct HybridMode {
    using Scores = ScoresU8S8;
    using Mixing = DotS16;
    static constexpr int keys = 320, score_levels = 127, probability_levels = 3200, value_levels = 2047;
};
struct ByteMode {
    using Scores = ScoresU8S8;
    using Mixing = MixingU8S8;
    static constexpr int keys = 64, score_levels = 127, probability_levels = 255, value_levels = 127;
};
static_assert(int64_t{WordMode::score_levels} * WordMode::score_levels * max_head_dim < int64_t{1} << 31);
static_assert(int64_t{WordMode::probability_levels} * WordMode::value_levels * WordMode::keys < int64_t{1} << 31);

template <class Mode>
static constexpr bool is_float = Mode::probability_levels == 0;

// u8s8 products take unsigned activations: queries are stored with 128 added, and 128 * sum(k) comes off again.
template <class Mode>
static constexpr int query_offset = Mode::Scores::group == 4 && !activation_offset ? 128 : 0;

// Keys (panels of 16 keys, steps along the head) and values (panels of 16 channels, steps along the keys) of one head.
// score = (product * key_scale + key_bias) * the query's scale; the bias of padding is -infinity.
struct HeadLayout {
    int keys, key_panels, key_steps, value_panels, value_steps;
    size_t key_scale, key_bias, value_scale, poison, values, bytes;
};

template <class Mode>
static inline HeadLayout layout_of(const Attention& a) {
    HeadLayout h;
    h.keys = int(padded(a.tokens, Mode::keys));
    h.key_panels = h.keys / panel_outputs;
    h.key_steps = (a.dim + Mode::Scores::group - 1) / Mode::Scores::group;
    h.value_panels = int(padded(a.dim, 32)) / panel_outputs;
    h.value_steps = h.keys / Mode::Mixing::group;
    h.key_scale = h.key_panels * h.key_steps * step_bytes;
    h.key_bias = h.key_scale + h.keys * sizeof(float);
    h.value_scale = h.key_bias + h.keys * sizeof(float);
    h.poison = h.value_scale + h.value_panels * panel_outputs * sizeof(float);  // NaN where a key is not finite, else 0
    h.values = h.poison + 64;
    h.bytes = h.values + h.value_panels * h.value_steps * step_bytes;
    return h;
}

static inline float usable(float scale) { return scale >= smallest ? scale : 1; }

// 4 bytes of every step of one output's weights, from a row that holds them in order.
static inline void scatter(const void* row, int steps, char* panel) {
    for (int s = 0; s < steps; ++s) __builtin_memcpy(panel + s * step_bytes, (const char*)row + s * 4, 4);
}

// Offset of output `index` in panels of `steps` steps.
static inline char* column_at(char* panels, int index, int steps) {
    return panels + size_t(index / panel_outputs) * steps * step_bytes + index % panel_outputs * 4;
}

// Integers of one row of a head, by a scale that its largest magnitude fits.
template <class Dot, int levels>
static inline void store_head(const float* x, int dim, float inverse, int offset, char* to) {
    for (int d = 0; d < dim; d += LANES) {
        const vi q = round_to_int(between(load_up_to(x + d, dim - d, 0) * inverse, -levels, levels)) + offset;
        if constexpr (Dot::group == 4) store_integers((uint8_t*)to + d, q);
        else store_integers((int16_t*)to + d, q);
    }
}

// Keys less their mean, an integer scale for each; k (tokens, stride).
template <class Mode>
static inline void pack_keys(const Attention& a, const float* k, const HeadLayout& h, char* packed) {
    using Dot = typename Mode::Scores;
    float* key_scale = (float*)(packed + h.key_scale);
    float* key_bias = (float*)(packed + h.key_bias);
    alignas(64) float mean[max_head_dim + 2 * LANES] = {}, centred[max_head_dim + 2 * LANES];
    alignas(64) char integers[(max_head_dim + 2 * LANES) * 2] = {};
    const int dim = a.dim;
    for (int d = 0; d < dim; d += LANES) {
        vf total = {};
        for (int token = 0; token < a.tokens; ++token) total += load_up_to(k + token * a.stride + d, dim - d, 0);
        store(mean + d, total / float(a.tokens));
    }
    vf poison = {};
    for (int token = 0; token < a.tokens; ++token) {
        const float* from = k + token * a.stride;
        vf high = {};
        for (int d = 0; d < dim; d += LANES) {
            const vf v = load_up_to(from + d, dim - d, 0) - load(mean + d);
            high = larger(magnitude(v), high);
            poison += v * 0.0f;
            store(centred + d, v);
        }
        const float scale = usable(max_of(high) / Mode::score_levels);
        store_head<Dot, Mode::score_levels>(centred, dim, 1 / scale, 0, integers);
        scatter(integers, h.key_steps, column_at(packed, token, h.key_steps));
        key_scale[token] = scale;
    }
    *(float*)(packed + h.poison) = sum_of(poison);
    for (int panel = 0; panel < h.key_panels; ++panel)  // the sums of 16 keys at once: queries of 1
        for (int lane = 0; lane < panel_outputs; lane += LANES) {
            const int first = panel * panel_outputs + lane;
            typename Dot::acc sums = {};
            if constexpr (query_offset<Mode> != 0) {
                const char* w = packed + size_t(panel) * h.key_steps * step_bytes + lane * 4;
                for (int s = 0; s < h.key_steps; ++s, w += step_bytes) {
                    vi weights;
                    __builtin_memcpy(&weights, w, sizeof weights);
                    sums = Dot::dot(sums, splat(0x01010101), weights);
                }
            }
            store(key_bias + first, to_float((vi)sums) * load(key_scale + first) * -float(query_offset<Mode>));
        }
    for (int token = a.tokens; token < h.keys; ++token) key_bias[token] = -__builtin_inff();
}

// The i-th token of a step of values: neighbours, but of two those that stand LANES apart in a pair of vectors.
template <int group>
static inline int token_of(int step, int i) {
    return group == 2 ? step / LANES * 2 * LANES + step % LANES + i * LANES : step * group + i;
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
        for (int s = 0; s < h.value_steps && token_of<group>(s / LANES * LANES, 0) < a.tokens; ++s) {
            vi step = {};
            for (int i = 0; i < group; ++i) {
                const int token = token_of<group>(s, i);
                if (token >= a.tokens) continue;
                const vf x = load_up_to(v + token * a.stride + d, a.dim - d, 0) * inverse;
                step |= (vi)((vu)(round_to_int(between(x, -Mode::value_levels, Mode::value_levels)) & mask) << (i * bits));
            }
            __builtin_memcpy(to + size_t(s) * step_bytes, &step, sizeof step);
        }
    }
}

// Floats need no scales, and no mean taken off.
static inline void pack_floats(const Attention& a, const float* k, const float* v, const HeadLayout& h, char* packed) {
    float* key_bias = (float*)(packed + h.key_bias);
    for (int token = 0; token < h.keys; ++token) {
        char* to = column_at(packed, token, h.key_steps);
        for (int d = 0; d < a.dim; ++d) *(float*)(to + d * step_bytes) = token < a.tokens ? k[token * a.stride + d] : 0;
        key_bias[token] = token < a.tokens ? 0 : -__builtin_inff();
    }
    for (int d = 0; d < h.value_panels * panel_outputs; d += LANES) {
        char* to = column_at(packed + h.values, d, h.keys);
        for (int token = 0; token < h.keys; ++token) {
            const vf x = token < a.tokens ? load_up_to(v + token * a.stride + d, a.dim - d, 0) : vf{};
            store((float*)(to + token * step_bytes), x);
        }
    }
}

template <class Mode>
static void pack_head(const Attention& a, int image, int head, char* packed) {
    const HeadLayout h = layout_of<Mode>(a);
    const float* k = a.qkv + size_t(image) * a.tokens * a.stride + a.width + head * a.dim;
    const float* v = k + a.width;
    if constexpr (is_float<Mode>) {
        pack_floats(a, k, v, h, packed);
    } else {
        // Padding of the last tile: keys and values of zeros.
        const int last = a.tokens / panel_outputs;
        __builtin_memset(packed + size_t(last) * h.key_steps * step_bytes, 0, size_t(h.key_panels - last) * h.key_steps * step_bytes);
        __builtin_memset(packed + h.key_scale, 0, h.key_bias - h.key_scale);
        const size_t step = a.tokens / (Mode::Mixing::group * LANES) * LANES;
        for (int panel = 0; panel < h.value_panels; ++panel)
            __builtin_memset(packed + h.values + (panel * h.value_steps + step) * step_bytes, 0, (h.value_steps - step) * step_bytes);
        pack_keys<Mode>(a, k, h, packed);
        pack_values<Mode>(a, v, h, packed);
    }
}

// q of a block of queries; scales turn products into exponents of two, scale * log2(e) included. NaN goes to `poison`.
template <class Mode>
static inline void load_queries(const Attention& a, const float* q, int rows, char* to, size_t stride, float* scales, float* poison) {
    const float factor = a.scale * 1.4426950408889634f, sign = factor < 0 ? -1 : 1;
    for (int r = 0; r < rows; ++r, q += a.stride, to += stride) {
        if constexpr (is_float<Mode>) {
            for (int d = 0; d < a.dim; ++d) ((float*)to)[d] = q[d] * factor;
            scales[r] = 1, poison[r] = 0;
        } else {
            vf high = {}, bad = {};
            for (int d = 0; d < a.dim; d += LANES) {
                const vf v = load_up_to(q + d, a.dim - d, 0);
                high = larger(magnitude(v), high);
                bad += v * 0.0f;
            }
            const float scale = usable(max_of(high) / Mode::score_levels);
            store_head<typename Mode::Scores, Mode::score_levels>(q, a.dim, sign / scale, query_offset<Mode>, to);
            scales[r] = scale * factor * sign, poison[r] = sum_of(bad);
        }
    }
}
