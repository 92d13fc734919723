// The tile instructions. Tile numbers are template arguments; loads and stores are barriers to the compiler, which the
// compilers' own intrinsics are not (gcc 12: a buffer may be filled after the tile load that reads it).

template <int tile>
static inline __attribute__((always_inline)) void tile_zero() { __asm__ volatile("tilezero %%tmm%c0" ::"i"(tile)); }
template <int tile>
static inline __attribute__((always_inline)) void tile_load(const void* from, size_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(tile) : "memory");
}
template <int tile>
static inline __attribute__((always_inline)) void tile_store(void* to, size_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(tile) : "memory");
}
// sums += a * w of 64 bytes (of bfloat16: 32 values) a row.
template <int sums, int a, int w>
static inline __attribute__((always_inline)) void tile_dot_u8s8() {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(a), "i"(w));
}
template <int sums, int a, int w>
static inline __attribute__((always_inline)) void tile_dot_s8s8() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(a), "i"(w));
}
template <int sums, int a, int w>
static inline __attribute__((always_inline)) void tile_dot_bf16() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sums), "i"(a), "i"(w));
}
static inline void tile_config_load(const void* config) { __asm__ volatile("ldtilecfg (%0)" ::"r"(config) : "memory"); }
static inline void tile_config_store(void* config) { __asm__ volatile("sttilecfg (%0)" ::"r"(config) : "memory"); }
static inline void tile_release() { __asm__ volatile("tilerelease" ::: "memory"); }

// 32 bfloat16 beside each other, rounded to nearest even; denormals become 0.
static inline vi bf16_of(vf first, vf second) { return (vi)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first); }
// bfloat16 of even[i] and odd[i] in the 32 bits i.
static inline vi bf16_pairs(vf even, vf odd) {
    typedef int16_t words __attribute__((vector_size(64)));
    constexpr words order = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return (vi)_mm512_permutexvar_epi16((__m512i)order, (__m512i)bf16_of(even, odd));
}
static inline bool any_above(vf v, float limit) { return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0; }
