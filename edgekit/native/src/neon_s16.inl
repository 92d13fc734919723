// int16 dot products of plain NEON.

struct DotS16 {
    using acc = vi;
    using element = int16_t;
    static constexpr int group = 2;
    static inline vi dot(vi sum, vi a, vi w) {
        const int16x8_t x = vreinterpretq_s16_s32((int32x4_t)a), y = vreinterpretq_s16_s32((int32x4_t)w);
        return sum + (vi)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
    }
};
