// AVX2 with VNNI in 256-bit registers: exact dot products of uint8 with int8.
#include "kernels.h"
#if defined(__AVXVNNI__) && defined(__FMA__)
#include <immintrin.h>

#include "cpu_x86.h"

#define NAME "avxvnni"
#define LANES 8
#define VECTORS 2
#define ROWS 6
#define VECTOR_MAX _mm256_max_ps
#define VECTOR_MIN _mm256_min_ps
#define VECTOR_REGISTER "x"

namespace edgekit { namespace avxvnni {
#include "simd.inl"

struct DotS16 {
    using acc = vi;
    using element = int16_t;
    static constexpr int group = 2;
    static inline vi dot(vi sum, vi a, vi w) {
        return (vi)_mm256_dpwssd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)w);
    }
};
struct DotU8S8 {
    using acc = vi;
    using element = int8_t;
    static constexpr int group = 4;
    static inline vi dot(vi sum, vi a, vi w) {
        return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)w);
    }
};
using ScoresU8S8 = DotU8S8;
using MixingU8S8 = DotU8S8;
static constexpr int activation_offset = 0;
#include "unit.inl"
}}  // namespace edgekit::avxvnni

namespace edgekit {
const Kernels* kernels_avxvnni() {
    return x86_has(X86Feature::avxvnni) ? &avxvnni::kernels : nullptr;
}
}
#else
namespace edgekit { const Kernels* kernels_avxvnni() { return nullptr; } }
#endif
