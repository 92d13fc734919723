// The second half of attention.inl: scores, softmax and mixing of one block of queries.

// scores (rows, Mode::keys) -> probabilities in Mixing's own number format, less each row's maximum of this tile.
static_assert(U8Mode::keys % (4 * LANES) == 0);

template <class Mode>
static inline void soften(float* scores, int rows, int keys, char* probabilities, size_t stride, float* peaks, float* totals) {
    for (int r = 0; r < rows; ++r, scores += Mode::keys, probabilities += stride) {
        for (int j = keys; j < Mode::keys; ++j) scores[j] = -__builtin_inff();
        const int end = int(padded(keys, LANES));
        // Four maxima at a time hide the latency of one; what lies beyond the keys is -inf, and no row reads past its end.
        vf high[4] = {splat(-__builtin_inff()), high[0], high[0], high[0]};
        for (int j = 0; j < end; j += 4 * LANES)
            for (int i = 0; i < 4; ++i) high[i] = larger(load(scores + j + i * LANES), high[i]);
        const float peak = max_of(larger(larger(high[0], high[1]), larger(high[2], high[3])));
        peaks[r] = peak;
        vf total = {};
        for (int j = 0; j < end; j += LANES) {
            const vf s = load(scores + j);
            vf p = exp2_of(s - peak);
            if (j + LANES > keys) p = s == -__builtin_inff() ? splat(0.0f) : p;
            if constexpr (Mode::probability_levels == 0) {
                store((float*)probabilities + j, p);
            } else {
                const vf shifted = p * float(Mode::probability_levels) + round_magic;
                const vi integers = (vi)shifted - round_bits;
                p = shifted - round_magic;
                if constexpr (Mode::Mixing::group == 4)
                    store_integers((uint8_t*)probabilities + j, integers);
                else
                    store_integers((int16_t*)probabilities + j, integers);
            }
            total += p;
        }
        totals[r] = sum_of(total);
        // Keys beyond `end` up to a step of the next format's group meet zeros: clear one more vector.
        if (end < Mode::keys) __builtin_memset(probabilities + end * (4 / Mode::Mixing::group), 0, 64);
    }
}

template <class Mode>
static void attend(const Attention& a, int image, int head, int first_row, int rows, const char* packed, char* scratch) {
    const HeadLayout h = layout_of<Mode>(a);
    const AttendScratch s = scratch_of<Mode>(a);
    float* query_scale = (float*)(scratch + s.query_scale);
    float* scores = (float*)(scratch + s.scores);
    char* probabilities = scratch + s.probabilities;
    float* peak = (float*)(scratch + s.sums);  // of the tile, then of all so far; their sums likewise
    float *top = peak + query_block, *tile_sum = top + query_block, *sum = tile_sum + query_block;
    float* out = (float*)(scratch + s.out);
    const int out_stride = h.value_panels * panel_outputs;
    constexpr size_t p_stride = Mode::keys * (4 / Mode::Mixing::group) + 64;
    const float* key_scale = (const float*)(packed + h.key_scale);
    const int32_t* key_sums = (const int32_t*)(packed + h.key_sums);
    const float* value_scale = (const float*)(packed + h.value_scale);

    const float* q = a.qkv + (size_t(image) * a.tokens + first_row) * a.stride + head * a.dim;
    load_queries<Mode>(a, q, rows, scratch, s.query_stride, query_scale);
    for (int r = 0; r < rows; ++r) top[r] = -__builtin_inff(), sum[r] = 0;
    for (int i = 0; i < rows * out_stride; i += LANES) store(out + i, vf{});

    for (int first = 0; first < a.tokens; first += Mode::keys) {
        const int keys = lesser(Mode::keys, a.tokens - first);
        const int panels = int(padded(keys, 32)) / panel_outputs;
        auto keep = [&](const char* tile, int row, int some, int column) {
            for (int v = 0; v < VECTORS; ++v) {
                const int j = column + v * LANES;
                const vf scale = load(key_scale + first + j);
                const vi offset = load(key_sums + first + j);
                for (int r = 0; r < some; ++r) {
                    typename Mode::Scores::acc acc;
                    __builtin_memcpy(&acc, tile + (r * VECTORS + v) * sizeof acc, sizeof acc);
                    if constexpr (Mode::probability_levels == 0)
                        store(scores + (row + r) * Mode::keys + j, acc);
                    else
                        store(scores + (row + r) * Mode::keys + j, to_float(acc - offset) * (scale * query_scale[row + r]));
                }
            }
        };
        gemm<typename Mode::Scores>(scratch, s.query_stride, rows,
                                    packed + size_t(first / panel_outputs) * h.key_steps * step_bytes, panels, h.key_steps, keep);
        soften<Mode>(scores, rows, keys, probabilities, p_stride, peak, tile_sum);
        for (int r = 0; r < rows; ++r) {
            // `peak` becomes the weight of this tile, `tile_sum` the factor that brings what came before to the new maximum.
            const float highest = peak[r] > top[r] ? peak[r] : top[r];
            const float weight = exp2_of(splat(peak[r] - highest))[0], kept = first ? exp2_of(splat(top[r] - highest))[0] : 0;
            sum[r] = sum[r] * kept + tile_sum[r] * weight;
            top[r] = highest, peak[r] = weight, tile_sum[r] = kept;
        }
        auto mix = [&](const char* tile, int row, int some, int column) {
            for (int v = 0; v < VECTORS; ++v)
                for (int r = 0; r < some; ++r) {
                    typename Mode::Mixing::acc acc;
                    __builtin_memcpy(&acc, tile + (r * VECTORS + v) * sizeof acc, sizeof acc);
                    vf y;
                    if constexpr (Mode::probability_levels == 0) y = acc; else y = to_float(acc);
                    float* to = out + (row + r) * out_stride + column + v * LANES;
                    store(to, load(to) * tile_sum[row + r] + y * peak[row + r]);
                }
        };
        constexpr int group = Mode::Mixing::group;
        gemm<typename Mode::Mixing>(probabilities, p_stride, rows, packed + h.values + size_t(first / group) * step_bytes,
                                    h.value_panels, (keys + group - 1) / group, mix, h.value_steps * step_bytes);
    }
    for (int r = 0; r < rows; ++r) {
        float* to = a.out + (size_t(image) * a.tokens + first_row + r) * a.width + head * a.dim;
        const float inverse = 1 / sum[r];
        for (int d = 0; d < a.dim; ++d) {
            const float y = out[r * out_stride + d] * inverse;
            to[d] = Mode::probability_levels ? y * value_scale[d] : y;
        }
    }
}

static size_t head_bytes(const Attention& a) {
    return a.mode == 0 ? layout_of<FloatMode>(a).bytes
                       : a.mode == 1 ? layout_of<HybridMode>(a).bytes : layout_of<U8Mode>(a).bytes;
}
static size_t attend_scratch(const Attention& a) {
    return a.mode == 0 ? scratch_of<FloatMode>(a).bytes
                       : a.mode == 1 ? scratch_of<HybridMode>(a).bytes : scratch_of<U8Mode>(a).bytes;
}
static void pack_any(const Attention& a, int image, int head, char* packed) {
    a.mode == 0 ? pack_head<FloatMode>(a, image, head, packed)
                : a.mode == 1 ? pack_head<HybridMode>(a, image, head, packed) : pack_head<U8Mode>(a, image, head, packed);
}
static void attend_any(const Attention& a, int image, int head, int first_row, int rows, const char* packed, char* scratch) {
    a.mode == 0 ? attend<FloatMode>(a, image, head, first_row, rows, packed, scratch)
                : a.mode == 1 ? attend<HybridMode>(a, image, head, first_row, rows, packed, scratch)
                              : attend<U8Mode>(a, image, head, first_row, rows, packed, scratch);
}
