// Attention of a block of queries against all keys of one head, tile by tile of keys, as online softmax.

static constexpr int query_block = 4 * ROWS;

struct AttendScratch {
    size_t query_stride, rows, scores, probabilities, out, bytes;
};

// Per query: the scale of its scores, and maximum and sum of this tile of keys and of all tiles so far. `high` is the maximum
// of scores before their scale.
struct QueryRows {
    float scale[query_block], poison[query_block], peak[query_block], top[query_block], tile_sum[query_block], sum[query_block];
    float high[query_block * LANES];  // lane by lane
};

template <class Mode>
static inline AttendScratch scratch_of(const Attention& a) {
    AttendScratch s;
    s.query_stride = padded(a.dim * 4, 64) + 64;
    s.rows = s.query_stride * query_block;
    s.scores = s.rows + padded(sizeof(QueryRows), 64);
    s.probabilities = s.scores + query_block * Mode::keys * 4;
    s.out = s.probabilities + query_block * (Mode::keys * 4 + 64);
    s.bytes = s.out + query_block * padded(a.dim, 32) * 4;
    return s;
}

// Scores (rows, Mode::keys) times each row's scale -> probabilities in Mixing's own number format, less the row's maximum of
// this tile, and their sums; `width` is a multiple of 32, and scores that are no key's are -infinity. The int16 of two vectors
// lie as pairs: pack_values has the values in the same order.
template <class Mode>
static inline void soften(const float* scores, int rows, int width, char* probabilities, size_t stride, QueryRows& q) {
    for (int r = 0; r < rows; ++r, scores += Mode::keys, probabilities += stride) {
        const float high = max_of(load(q.high + r * LANES)), scale = q.scale[r];
        q.peak[r] = high * scale;
        if constexpr (is_float<Mode>) {
            vf total = {};
            for (int j = 0; j < width; j += LANES) {
                const vf p = exp2_of(load(scores + j) - high);
                store((float*)probabilities + j, p);
                total += p;
            }
            q.tile_sum[r] = sum_of(total);
        } else {
            vu total = {};  // of the rounded probabilities
            for (int j = 0; j < width; j += 2 * LANES) {
                const vi a = round_to_int(exp2_times<Mode::probability_levels>((load(scores + j) - high) * scale));
                const vi b = round_to_int(exp2_times<Mode::probability_levels>((load(scores + j + LANES) - high) * scale));
                if constexpr (Mode::Mixing::group == 4) store_integers((uint8_t*)probabilities + j, a, b);
                else store((int32_t*)probabilities + j / 2, (vi)((vu)a | (vu)b << 16));
                total += (vu)a + (vu)b;
            }
            q.tile_sum[r] = sum_of(to_float((vi)total));
        }
    }
}

template <class Mode>
static void attend(const Attention& a, int image, int head, int first_row, int rows, const char* packed, char* scratch) {
    const HeadLayout h = layout_of<Mode>(a);
    const AttendScratch s = scratch_of<Mode>(a);
    QueryRows& q = *(QueryRows*)(scratch + s.rows);
    float* scores = (float*)(scratch + s.scores);
    char* probabilities = scratch + s.probabilities;
    float* out = (float*)(scratch + s.out);
    const int out_stride = h.value_panels * panel_outputs;
    constexpr size_t p_stride = Mode::keys * (4 / Mode::Mixing::group) + 64;
    const float* key_scale = (const float*)(packed + h.key_scale);
    const float* key_bias = (const float*)(packed + h.key_bias);
    const size_t first_token = size_t(image) * a.tokens + first_row;

    load_queries<Mode>(a, a.qkv + first_token * a.stride + head * a.dim, rows, scratch, s.query_stride, q.scale, q.poison);
    for (int r = 0; r < rows; ++r) q.top[r] = -__builtin_inff(), q.sum[r] = 0;

    for (int first = 0; first < a.tokens; first += Mode::keys) {
        const int keys = lesser(Mode::keys, a.tokens - first), panels = int(padded(keys, 32)) / panel_outputs;
        for (int i = 0; i < rows * LANES; i += LANES) store(q.high + i, splat(-__builtin_inff()));
        auto keep = [&](const char* tile, int row, int some, int column) {
            vf scale[VECTORS], bias[VECTORS];
            for (int v = 0; v < VECTORS; ++v) {
                bias[v] = load(key_bias + first + column + v * LANES);
                if constexpr (!is_float<Mode>) scale[v] = load(key_scale + first + column + v * LANES);
            }
            for (int r = 0; r < some; ++r) {
                vf high = load(q.high + (row + r) * LANES);
                for (int v = 0; v < VECTORS; ++v) {
                    typename Mode::Scores::acc product;
                    __builtin_memcpy(&product, tile + (r * VECTORS + v) * sizeof product, sizeof product);
                    vf score;
                    if constexpr (is_float<Mode>) score = product + bias[v];
                    else score = to_float(product) * scale[v] + bias[v];
                    high = larger(score, high);
                    store(scores + (row + r) * Mode::keys + column + v * LANES, score);
                }
                store(q.high + (row + r) * LANES, high);
            }
        };
        const DotPanels<typename Mode::Scores> key_panels(packed + size_t(first / panel_outputs) * h.key_steps * step_bytes,
                                                          panels, h.key_steps, h.key_steps * step_bytes);
        key_panels.multiply_rows(scratch, s.query_stride, rows, keep);
        soften<Mode>(scores, rows, panels * panel_outputs, probabilities, p_stride, q);
        for (int r = 0; r < rows; ++r) {
            // `peak` becomes the weight of this tile, `tile_sum` the factor that brings what came before to the new maximum.
            const float highest = q.peak[r] > q.top[r] ? q.peak[r] : q.top[r];
            const float weight = first ? exp2_of(splat(q.peak[r] - highest))[0] : 1;
            const float kept = first ? exp2_of(splat(q.top[r] - highest))[0] : 0;
            q.sum[r] = q.sum[r] * kept + q.tile_sum[r] * weight;
            q.top[r] = highest, q.peak[r] = weight, q.tile_sum[r] = kept;
        }
        auto mix = [&](const char* tile, int row, int some, int column) {
            for (int r = 0; r < some; ++r)
                for (int v = 0; v < VECTORS; ++v) {
                    typename Mode::Mixing::acc product;
                    __builtin_memcpy(&product, tile + (r * VECTORS + v) * sizeof product, sizeof product);
                    vf y;
                    if constexpr (is_float<Mode>) y = product; else y = to_float(product);
                    float* to = out + (row + r) * out_stride + column + v * LANES;
                    store(to, first ? load(to) * q.tile_sum[row + r] + y * q.peak[row + r] : y);
                }
        };
        constexpr int group = Mode::Mixing::group;
        const int steps = group == 2 ? keys / (2 * LANES) * LANES + lesser(keys % (2 * LANES), LANES) : (keys + group - 1) / group;
        const DotPanels<typename Mode::Mixing> value_panels(packed + h.values + size_t(first / group) * step_bytes,
                                                            h.value_panels, steps, h.value_steps * step_bytes);
        value_panels.multiply_rows(probabilities, p_stride, rows, mix);
    }
    const float* value_scale = (const float*)(packed + h.value_scale);
    const float poison = is_float<Mode> ? 0 : *(const float*)(packed + h.poison);
    for (int r = 0; r < rows; ++r) {
        const float inverse = 1 / q.sum[r] + (poison + q.poison[r]);
        float* to = a.out + (first_token + r) * a.width + head * a.dim;
        for (int d = 0; d < a.dim; d += LANES) {
            vf y = load(out + r * out_stride + d) * inverse;
            if constexpr (!is_float<Mode>) y *= load(value_scale + d);
            store_up_to(to + d, y, a.dim - d);
        }
    }
}

// An attention mode in the products of `Mode`.
template <class Mode>
struct DotAttention {
    static int query_rows(const Attention&) { return query_block; }
    static size_t head_bytes(const Attention& a) { return layout_of<Mode>(a).bytes; }
    static size_t scratch_bytes(const Attention& a) { return scratch_of<Mode>(a).bytes; }
    static void pack(const Attention& a, int image, int head, char* packed) { pack_head<Mode>(a, image, head, packed); }
    static void run(const Attention& a, int image, int head, int first_row, int rows, const char* packed, char* scratch) {
        attend<Mode>(a, image, head, first_row, rows, packed, scratch);
    }
};
#if !defined(TILES)
using Bf16Attention = DotAttention<FloatMode>;  // no bfloat16 products here: float32 is at least as exact
#endif

// Calls call(attention) with the mode that a program asks for at run time, as type.
template <class Call>
static inline auto with_mode(int mode, Call&& call) {
    switch (mode) {
        case EDGEKIT_F32: return call(DotAttention<FloatMode>{});
        case EDGEKIT_I16: return call(DotAttention<WordMode>{});
        case EDGEKIT_HYBRID: return call(DotAttention<HybridMode>{});
        case EDGEKIT_BF16: return call(Bf16Attention{});
        default: return call(DotAttention<ByteMode>{});
    }
}

static int query_rows(const Attention& a) {
    return with_mode(a.mode, [&](auto attention) { return attention.query_rows(a); });
}
static size_t head_bytes(const Attention& a) {
    return with_mode(a.mode, [&](auto attention) { return attention.head_bytes(a); });
}
static size_t attend_scratch(const Attention& a) {
    return with_mode(a.mode, [&](auto attention) { return attention.scratch_bytes(a); });
}
static void pack_any(const Attention& a, int image, int head, char* packed) {
    with_mode(a.mode, [&](auto attention) { attention.pack(a, image, head, packed); });
}
static void attend_any(const Attention& a, int image, int head, int first_row, int rows, const char* packed, char* scratch) {
    with_mode(a.mode, [&](auto attention) { attention.run(a, image, head, first_row, rows, packed, scratch); });
}
