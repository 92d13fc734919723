// Attention of a block of queries against all keys of one head, tile by tile of keys, as online softmax.

// What the products are made of, by mode; see reference.py for the levels.
struct FloatMode {
    using Scores = Floats;
    using Mixing = Floats;
    static constexpr int keys = 256, probability_levels = 0, value_levels = 0;
};
struct HybridMode {
    using Scores = FullQuads;
    using Mixing = Pairs;
    static constexpr int keys = 256, probability_levels = 4095, value_levels = 2047;
};
struct U8Mode {
    using Scores = FullQuads;
    using Mixing = UnsignedQuads;
    static constexpr int keys = 64, probability_levels = 255, value_levels = 127;
};
static constexpr int qk_levels = 127;
// Quads take unsigned activations: queries are stored with 128 added, and 128 * sum(k) comes off again.
static constexpr int query_offset = FullQuads::group == 4 && !activation_offset ? 128 : 0;

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

static inline void put(char* at, int32_t v, const float*) { *(float*)at = float(v); }
static inline void put(char* at, int32_t v, const int16_t*) { *(int16_t*)at = int16_t(v); }
static inline void put(char* at, int32_t v, const int8_t*) { *(int8_t*)at = int8_t(v); }

static inline float magnitude(float x) { return x < 0 ? -x : x; }
static inline float usable(float scale) { return scale >= smallest ? scale : 1; }

template <class Mode>
static void pack_head(const Attention& a, int image, int head, char* packed) {
    const HeadLayout h = layout_of<Mode>(a);
    const float* k = a.qkv + size_t(image) * a.tokens * a.stride + a.width + head * a.dim;
    const float* v = k + a.width;
    const int dim = a.dim, keys = h.key_panels * panel_outputs, channels = h.value_panels * panel_outputs;
    float* key_scale = (float*)(packed + h.key_scale);
    int32_t* key_sums = (int32_t*)(packed + h.key_sums);
    float* value_scale = (float*)(packed + h.value_scale);
    char* values = packed + h.values;
    if constexpr (Mode::probability_levels == 0) {
        for (int panel = 0; panel < h.key_panels; ++panel) {
            float* to = (float*)packed + size_t(panel) * dim * panel_outputs;
            for (int j = 0; j < panel_outputs; ++j) {
                const int token = panel * panel_outputs + j;
                for (int d = 0; d < dim; ++d) to[d * panel_outputs + j] = token < a.tokens ? k[token * a.stride + d] : 0;
            }
        }
        for (int panel = 0; panel < h.value_panels; ++panel)
            for (int token = 0; token < keys; ++token) {
                float* to = (float*)values + (size_t(panel) * keys + token) * panel_outputs;
                const int first = panel * panel_outputs, some = lesser(panel_outputs, dim - first);
                for (int c = 0; c < panel_outputs; ++c) to[c] = token < a.tokens && c < some ? v[token * a.stride + first + c] : 0;
            }
    } else {
        using K = typename Mode::Scores::element;
        using V = typename Mode::Mixing::element;
        constexpr int kg = Mode::Scores::group, vg = Mode::Mixing::group;
        __builtin_memset(packed, 0, h.bytes);
        float mean[max_head_dim], top[max_head_dim];
        for (int d = 0; d < dim; ++d) mean[d] = top[d] = 0;
        for (int token = 0; token < a.tokens; ++token)
            for (int d = 0; d < dim; ++d) {
                const float x = magnitude(v[token * a.stride + d]);
                mean[d] += k[token * a.stride + d];
                top[d] = top[d] >= x ? top[d] : x;  // NaN enters and stays only as the scale's poison below
            }
        for (int d = 0; d < dim; ++d) mean[d] /= float(a.tokens);
        for (int d = 0; d < dim; ++d) value_scale[d] = usable(top[d] / Mode::value_levels);
        for (int token = 0; token < a.tokens; ++token) {
            const float* from = k + token * a.stride;
            float high = 0, poison = 0;
            for (int d = 0; d < dim; ++d) {
                const float x = magnitude(from[d] - mean[d]);
                high = high > x ? high : x;
                poison += x * 0;
            }
            const float scale = usable(high / qk_levels), inverse = 1 / scale;
            int32_t total = 0;
            char* panel = packed + size_t(token / panel_outputs) * h.key_steps * step_bytes + token % panel_outputs * 4;
            for (int d = 0; d < dim; ++d) {
                const float x = __builtin_rintf((from[d] - mean[d]) * inverse);
                const int32_t q = x >= -qk_levels && x <= qk_levels ? int32_t(x) : 0;
                total += q;
                put(panel + d / kg * step_bytes + d % kg * sizeof(K), q, (const K*)nullptr);
            }
            key_scale[token] = scale + poison;
            key_sums[token] = query_offset * total;
        }
        for (int d = 0; d < dim; ++d) {
            const float inverse = 1 / value_scale[d];
            float poison = 0;
            char* panel = values + size_t(d / panel_outputs) * h.value_steps * step_bytes + d % panel_outputs * 4;
            for (int token = 0; token < a.tokens; ++token) {
                const float raw = v[token * a.stride + d], x = __builtin_rintf(raw * inverse);
                const int32_t q = x >= -Mode::value_levels && x <= Mode::value_levels ? int32_t(x) : 0;
                poison += raw * 0;
                put(panel + token / vg * step_bytes + token % vg * sizeof(V), q, (const V*)nullptr);
            }
            value_scale[d] += poison;
        }
    }
    (void)channels;
}

static constexpr int query_block = 2 * ROWS > 24 ? 2 * ROWS : 24;

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
                high = larger(v > 0.0f ? v : -v, high);
                poison += v * 0.0f;
            }
            const float scale = usable(max_of(high) / qk_levels);
            if constexpr (Mode::Scores::group == 4)
                store_row<uint8_t>(q, a.dim, 1 / scale, query_offset, query_offset - 127, query_offset + 127, to);
            else
                store_row<int16_t>(q, a.dim, 1 / scale, 0, -127, 127, to);
            scales[r] = scale * factor + sum_of(poison);
        }
    }
}
