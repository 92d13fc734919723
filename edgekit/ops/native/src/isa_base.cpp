// Any CPU: the compiler's generic vectors, SSE2 on x86-64 and NEON on AArch64.
#include "kernels.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define NAME "base"
#define LANES 4
#define VECTORS 4
#if defined(__aarch64__)
#define ROWS 6
#define VECTOR_REGISTER "w"
#else
#define ROWS 2
#define VECTOR_REGISTER "x"
#endif

namespace edgekit { namespace base {
#include "simd.inl"

struct Pairs {
    using acc = vi;
    using element = int16_t;
    static constexpr int group = 2;
    static inline vi dot(vi sum, vi a, vi w) {
#if defined(__SSE2__)
        return sum + (vi)_mm_madd_epi16((__m128i)a, (__m128i)w);
#elif defined(__aarch64__)
        const int16x8_t x = vreinterpretq_s16_s32((int32x4_t)a), y = vreinterpretq_s16_s32((int32x4_t)w);
        return sum + (vi)vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
#else
        return sum + ((a << 16) >> 16) * ((w << 16) >> 16) + (a >> 16) * (w >> 16);
#endif
    }
};
using Quads = Pairs;
using FullQuads = Pairs;
using UnsignedQuads = Pairs;
static constexpr int activation_offset = 0;
static Format choose_format(bool, int) { return Format::pairs; }
#include "unit.inl"
}}  // namespace edgekit::base

const edgekit::Kernels* edgekit::kernels_base() { return &base::kernels; }
