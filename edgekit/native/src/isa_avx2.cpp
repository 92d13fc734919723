// AVX2 and FMA.
#include "kernels.h"
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

#include "cpu_x86.h"

#define NAME "avx2"
#define LANES 8
#define VECTORS 2
#define ROWS 6
#define VECTOR_MAX _mm256_max_ps
#define VECTOR_MIN _mm256_min_ps
#define VECTOR_REGISTER "x"

namespace edgekit { namespace avx2 {
#include "simd.inl"

struct DotS16 {
    using acc = vi;
    using element = int16_t;
    static constexpr int group = 2;
    static inline vi dot(vi sum, vi a, vi w) { return sum + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)w); }
};
struct DotU8S8 {  // in chains: pmaddubsw saturates at 16 bits
    using acc = vi;
    typedef int16_t narrow __attribute__((vector_size(32)));
    using element = int8_t;
    static constexpr int group = 4;
    static inline narrow products(vi a, vi w) { return (narrow)_mm256_maddubs_epi16((__m256i)a, (__m256i)w); }
    static inline vi widened(narrow sums) { return (vi)_mm256_madd_epi16((__m256i)sums, _mm256_set1_epi16(1)); }
};
using ScoresU8S8 = DotS16;
using MixingU8S8 = DotS16;
static constexpr int activation_offset = 0;
#include "unit.inl"
}}  // namespace edgekit::avx2

namespace edgekit {
const Kernels* kernels_avx2() {
    return x86_has(X86Feature::avx2) ? &avx2::kernels : nullptr;
}
}
#else
namespace edgekit { const Kernels* kernels_avx2() { return nullptr; } }
#endif
