// AVX-512 with VNNI: exact dot products of uint8 with int8 in 512-bit registers, 32 of them.
#include "kernels.h"
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

#define NAME "avx512vnni"
#define LANES 16
#define VECTORS 2
#define ROWS 12
#define VECTOR_MAX _mm512_max_ps
#define VECTOR_MIN _mm512_min_ps
#define VECTOR_REGISTER "v"

namespace edgekit { namespace avx512vnni {
#include "simd.inl"

struct Pairs {
    using acc = vi;
    using element = int16_t;
    static constexpr int group = 2;
    static inline vi dot(vi sum, vi a, vi w) { return (vi)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)w); }
};
struct Quads {
    using acc = vi;
    using element = int8_t;
    static constexpr int group = 4;
    static inline vi dot(vi sum, vi a, vi w) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)w); }
};
using FullQuads = Quads;
using UnsignedQuads = Quads;
static constexpr int activation_offset = 0;
static Format choose_format(bool speed) { return speed ? Format::quads : Format::pairs; }
#include "unit.inl"
}}  // namespace edgekit::avx512vnni

const edgekit::Kernels* edgekit::kernels_avx512vnni() {
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
               ? &avx512vnni::kernels : nullptr;
}
#else
const edgekit::Kernels* edgekit::kernels_avx512vnni() { return nullptr; }
#endif
