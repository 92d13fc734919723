// Dot products of AVX-512 VNNI.

struct DotS16 {
    using acc = vi;
    using element = int16_t;
    static constexpr int group = 2;
    static inline vi dot(vi sum, vi a, vi w) { return (vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)w); }
};
struct DotU8S8 {
    using acc = vi;
    using element = int8_t;
    static constexpr int group = 4;
    static inline vi dot(vi sum, vi a, vi w) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)w); }
};
using ScoresU8S8 = DotU8S8;
using MixingU8S8 = DotU8S8;
