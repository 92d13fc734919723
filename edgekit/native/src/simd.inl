// Vector arithmetic over the compiler's own vector types; the including unit has defined LANES and its namespace.
// Nothing here may instantiate a function shared with other units: the linker would keep one ISA's copy for all.

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));  // where sums may wrap: of NaN, say
typedef int16_t vi16 __attribute__((vector_size(LANES * 2)));
typedef uint8_t vu8 __attribute__((vector_size(LANES)));

static inline vf load(const float* p) { vf v; __builtin_memcpy(&v, p, sizeof v); return v; }
static inline vi load(const int32_t* p) { vi v; __builtin_memcpy(&v, p, sizeof v); return v; }
static inline void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
static inline void store(int32_t* p, vi v) { __builtin_memcpy(p, &v, sizeof v); }
static inline vf splat(float x) { return vf{} + x; }
static inline vi splat(int32_t x) { return vi{} + x; }
static inline vf to_float(vi v) { return __builtin_convertvector(v, vf); }
// Both give b where one is NaN, as the instructions of x86 do: compilers do not see through the comparison.
#if defined(VECTOR_MAX)
static inline vf larger(vf a, vf b) { return (vf)VECTOR_MAX(a, b); }
static inline vf smaller(vf a, vf b) { return (vf)VECTOR_MIN(a, b); }
#elif defined(__wasm_simd128__)
static inline vf larger(vf a, vf b) { return (vf)wasm_f32x4_pmax((v128_t)b, (v128_t)a); }
static inline vf smaller(vf a, vf b) { return (vf)wasm_f32x4_pmin((v128_t)b, (v128_t)a); }
#else
static inline vf larger(vf a, vf b) { return a > b ? a : b; }
static inline vf smaller(vf a, vf b) { return a < b ? a : b; }
#endif
// NaN is `low`.
static inline vf between(vf v, float low, float high) { return smaller(larger(v, splat(low)), splat(high)); }
static inline vf magnitude(vf v) { return (vf)((vi)v & 0x7fffffff); }
static inline int lesser(int a, int b) { return a < b ? a : b; }
static inline size_t padded(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// The first n < LANES values, `rest` in the other lanes.
static inline vf load_some(const float* p, int n, float rest) {
    float lanes[LANES];
    for (int i = 0; i < LANES; ++i) lanes[i] = i < n ? p[i] : rest;
    return load(lanes);
}
static inline void store_up_to(float* p, vf v, int n) { __builtin_memcpy(p, &v, n >= LANES ? sizeof v : n * sizeof(float)); }
static inline vf load_up_to(const float* p, int n, float rest) { return n >= LANES ? load(p) : load_some(p, n, rest); }

// Reductions go by quarters of a register, without a scalar loop.
typedef float v4 __attribute__((vector_size(16)));
static inline float sum_of(vf v) {
    v4 parts[LANES / 4];
    __builtin_memcpy(parts, &v, sizeof v);
    for (int step = LANES / 8; step; step /= 2)
        for (int i = 0; i < step; ++i) parts[i] += parts[i + step];
    return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}
static inline float max_of(vf v) {
    v4 parts[LANES / 4];
    __builtin_memcpy(parts, &v, sizeof v);
    for (int step = LANES / 8; step; step /= 2)
        for (int i = 0; i < step; ++i) parts[i] = parts[i] > parts[i + step] ? parts[i] : parts[i + step];
    const float a = parts[0][0] > parts[0][2] ? parts[0][0] : parts[0][2];
    const float b = parts[0][1] > parts[0][3] ? parts[0][1] : parts[0][3];
    return a > b ? a : b;
}

// Round half to even, for |v| < 2^22: where there is no instruction for it, adding 1.5 * 2^23 leaves the integer in the low
// bits of the float. NaN is any integer.
static constexpr float round_magic = 12582912.0f;
static constexpr uint32_t round_bits = 0x4B400000;
#if defined(__AVX512F__) && LANES == 16
static inline vi round_to_int(vf v) { return (vi)_mm512_cvtps_epi32((__m512)v); }
#elif defined(__AVX2__) && LANES == 8
static inline vi round_to_int(vf v) { return (vi)_mm256_cvtps_epi32((__m256)v); }
#elif defined(__SSE2__) && LANES == 4
static inline vi round_to_int(vf v) { return (vi)_mm_cvtps_epi32((__m128)v); }
#elif defined(__aarch64__) && LANES == 4
static inline vi round_to_int(vf v) { return (vi)vcvtnq_s32_f32((float32x4_t)v); }
#else
static inline vi round_to_int(vf v) { return (vi)((vu)(v + round_magic) - round_bits); }
#endif

// The low 8 or 16 bits of integers that fit them, signed or not. Compilers take narrow vectors apart lane by lane, all but
// those of AVX-512.
#if defined(__AVX2__) && LANES == 8
static inline __m128i words_of(vi v) {
    return _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
}
static inline void store_integers(uint8_t* p, vi v) {
    const __m128i words = words_of(v & 255);
    _mm_storel_epi64((__m128i*)p, _mm_packus_epi16(words, words));
}
static inline void store_integers(int16_t* p, vi v) { _mm_storeu_si128((__m128i*)p, words_of(v)); }
#elif defined(__SSE2__) && LANES == 4
static inline void store_integers(uint8_t* p, vi v) {
    const __m128i words = _mm_packs_epi32((__m128i)(v & 255), (__m128i)v);
    const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    __builtin_memcpy(p, &bytes, 4);
}
static inline void store_integers(int16_t* p, vi v) {
    _mm_storel_epi64((__m128i*)p, _mm_packs_epi32((__m128i)v, (__m128i)v));
}
#elif defined(__aarch64__) && LANES == 4
static inline void store_integers(uint8_t* p, vi v) {
    const int16x4_t words = vmovn_s32((int32x4_t)v);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
    __builtin_memcpy(p, &bytes, 4);
}
static inline void store_integers(int16_t* p, vi v) { vst1_s16(p, vmovn_s32((int32x4_t)v)); }
#elif defined(__wasm_simd128__)
static inline void store_integers(uint8_t* p, vi v) {
    const v128_t words = wasm_i16x8_narrow_i32x4((v128_t)(v & 255), (v128_t)v);
    wasm_v128_store32_lane(p, wasm_u8x16_narrow_i16x8(words, words), 0);
}
static inline void store_integers(int16_t* p, vi v) {
    wasm_v128_store64_lane(p, wasm_i16x8_narrow_i32x4((v128_t)v, (v128_t)v), 0);
}
#else
static inline void store_integers(uint8_t* p, vi v) {
    const vu8 bytes = __builtin_convertvector(v, vu8);
    __builtin_memcpy(p, &bytes, sizeof bytes);
}
static inline void store_integers(int16_t* p, vi v) {
    const vi16 words = __builtin_convertvector(v, vi16);
    __builtin_memcpy(p, &words, sizeof words);
}
#endif

// Two vectors beside each other.
static inline void store_integers(uint8_t* p, vi a, vi b) { store_integers(p, a), store_integers(p + LANES, b); }
#if defined(__AVX2__) && LANES == 8
static inline void store_integers(int16_t* p, vi a, vi b) {
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)a, (__m256i)b), 0xd8));
}
#else
static inline void store_integers(int16_t* p, vi a, vi b) { store_integers(p, a), store_integers(p + LANES, b); }
#endif

// Four vectors of integers, `shift` added, cut to what a byte holds (`is_signed` or not) by packing that saturates.
template <bool is_signed>
static inline void store_bytes(uint8_t* p, vi a, vi b, vi c, vi d, int shift) {
#if defined(__AVX2__) && LANES == 8
    static_assert(!is_signed);
    const __m256i add = _mm256_set1_epi16(short(shift));
    const __m256i low = _mm256_adds_epi16(_mm256_packs_epi32((__m256i)a, (__m256i)b), add);
    const __m256i high = _mm256_adds_epi16(_mm256_packs_epi32((__m256i)c, (__m256i)d), add);
    const __m256i order = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    _mm256_storeu_si256((__m256i*)p, _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order));
#elif defined(__aarch64__) && LANES == 4
    const int16x8_t add = vdupq_n_s16(int16_t(shift));
    const int16x8_t low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32((int32x4_t)a), (int32x4_t)b), add);
    const int16x8_t high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32((int32x4_t)c), (int32x4_t)d), add);
    if constexpr (is_signed) vst1q_s8((int8_t*)p, vqmovn_high_s16(vqmovn_s16(low), high));
    else vst1q_u8(p, vqmovun_high_s16(vqmovun_s16(low), high));
#elif defined(__wasm_simd128__)
    const v128_t add = wasm_i16x8_splat(int16_t(shift));
    const v128_t low = wasm_i16x8_add_sat(wasm_i16x8_narrow_i32x4((v128_t)a, (v128_t)b), add);
    const v128_t high = wasm_i16x8_add_sat(wasm_i16x8_narrow_i32x4((v128_t)c, (v128_t)d), add);
    wasm_v128_store(p, is_signed ? wasm_i8x16_narrow_i16x8(low, high) : wasm_u8x16_narrow_i16x8(low, high));
#else
    constexpr int least = is_signed ? -128 : 0;
    const vi all[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) {
        vi v = all[i] + shift;
        v = v < least ? splat(least) : v;
        store_integers(p + i * LANES, v > least + 255 ? splat(least + 255) : v);
    }
#endif
}

// 2^v for v <= 0 and a polynomial of 2^f on |f| <= 1/2, highest power first; what underflows is 0 or near it. `large`: the
// polynomial is above 2, so that powers of two can be added to its exponent; NaN may become a number then.
template <bool large = false, int count>
static inline vf power_of_two(vf v, const float (&terms)[count]) {
#if defined(__AVX512F__)
    const vf f = (vf)_mm512_reduce_ps((__m512)v, 0), whole = v - f;  // 0 of -infinity
#else
    v = larger(splat(-126.0f), v);
    const vf shifted = v + round_magic, f = v - (shifted - round_magic);
#endif
    vf p = splat(terms[0]);
#pragma GCC unroll 8
    for (int i = 1; i < count; ++i) p = p * f + terms[i];
#if defined(__AVX512F__)
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    if constexpr (large) return (vf)((vu)p + ((vu)shifted << 23));
    else return p * (vf)(((vu)shifted - (round_bits - 127)) << 23);
#endif
}

// Relative error 2e-7; NaN stays NaN.
static inline vf exp2_of(vf v) {
    return power_of_two(v, {0.0013218672247603536f, 0.009671698324382305f, 0.05550893023610115f, 0.24022237956523895f,
                            0.6931468844413757f, 1.0f});
}

// levels * 2^v with a relative error of 8e-5, which integers of 12 bits do not see.
template <int levels>
static inline vf exp2_times(vf v) {
    return power_of_two<(levels > 4)>(v, {levels * 0.0551716648042202f, levels * 0.2426111251115799f, levels * 0.6932609677314758f,
                            levels * 0.9999280571937561f});
}

// 1 / v; AVX-512 has an estimate of 14 bits, of which one Newton step makes 28.
static inline vf reciprocal(vf v) {
#if defined(__AVX512F__)
    const vf estimate = (vf)_mm512_rcp14_ps((__m512)v);
    return estimate * (2.0f - v * estimate);
#else
    return 1.0f / v;
#endif
}

// x / (1 + e^-x); the exponent is cut where float32 ends.
static inline vf silu_of(vf x) {
    return x * reciprocal(1.0f + exp2_of(smaller(splat(126.0f), x * -1.4426950408889634f)));
}

// x * Phi(x), Phi - 1/2 as an odd rational least-squares fit on |x| <= 5.2: absolute error 1e-6, that of float32.
static inline vf gelu_of(vf x) {
    vf c = larger(splat(-5.2f), smaller(splat(5.2f), x));
    vf t = c * c;
    vf p = t * 1.2751323608117815e-10f - 2.2840433544502048e-08f;
    p = p * t + 2.9108925900800386e-06f;
    p = p * t + 0.0001341378374490887f;
    p = p * t + 0.004274537321180105f;
    p = p * t + 0.0322888121008873f;
    p = p * t + 0.398942232131958f;
    vf q = t * 5.082445568405092e-05f + 0.0016179229132831097f;
    q = q * t + 0.02698342129588127f;
    q = q * t + 0.24760189652442932f;
    q = q * t + 1.0f;
    return x * (0.5f + c * p * reciprocal(q));
}
