// Any CPU: the compiler's generic vectors, SSE2 on x86-64, NEON on AArch64, SIMD128 in WebAssembly.
#include "kernels.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif

#define NAME "base"
#define LANES 4
#define VECTORS 4
#if defined(__aarch64__)
#define ROWS 6
#define VECTOR_REGISTER "w"
#elif defined(__wasm__)
#define ROWS 2
#define VECTOR_REGISTER "r"
#else
#define ROWS 2
#define VECTOR_REGISTER "x"
#endif

namespace edgekit { namespace base {
#include "simd.inl"

#if defined(__aarch64__)
#include "neon_s16.inl"
#elif defined(__wasm_simd128__)
#include "wasm_s16.inl"
#else
struct DotS16 {
    using acc = vi;
    using element = int16_t;
    static constexpr int group = 2;
    static inline vi dot(vi sum, vi a, vi w) {
#if defined(__SSE2__)
        return sum + (vi)_mm_madd_epi16((__m128i)a, (__m128i)w);
#else
        return sum + ((a << 16) >> 16) * ((w << 16) >> 16) + (a >> 16) * (w >> 16);
#endif
    }
};
#endif
using DotU8S8 = DotS16;
using ScoresU8S8 = DotS16;
using MixingU8S8 = DotS16;
static constexpr int activation_offset = 0;
#include "unit.inl"
}}  // namespace edgekit::base

namespace edgekit { const Kernels* kernels_base() { return &base::kernels; } }
