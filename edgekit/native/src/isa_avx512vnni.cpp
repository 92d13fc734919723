// AVX-512 with VNNI: exact dot products of uint8 with int8 in 512-bit registers, 32 of them.
#include "kernels.h"
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>

#include "cpu_x86.h"

#define NAME "avx512vnni"
#define LANES 16
#define VECTORS 2
#define ROWS 12
#define VECTOR_MAX _mm512_max_ps
#define VECTOR_MIN _mm512_min_ps
#define VECTOR_REGISTER "v"

namespace edgekit { namespace avx512vnni {
#include "simd.inl"

#include "avx512_dots.inl"
static constexpr int activation_offset = 0;
#include "unit.inl"
}}  // namespace edgekit::avx512vnni

namespace edgekit {
const Kernels* kernels_avx512vnni() {
    return x86_has(X86Feature::avx512vnni) ? &avx512vnni::kernels : nullptr;
}
}
#else
namespace edgekit { const Kernels* kernels_avx512vnni() { return nullptr; } }
#endif
