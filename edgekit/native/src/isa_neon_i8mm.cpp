// AArch64 with the int8 matrix extension, of which usdot is taken: uint8 * int8 as on x86.
#include "kernels.h"
#if defined(__aarch64__) && defined(__ARM_FEATURE_MATMUL_INT8)
#include <arm_neon.h>

#include "cpu_arm.h"

#define NAME "neon_i8mm"
#define LANES 4
#define VECTORS 4
#define ROWS 5
#define VECTOR_REGISTER "w"

namespace edgekit { namespace neon_i8mm {
#include "simd.inl"
#include "neon_s16.inl"

struct DotU8S8 {
    using acc = vi;
    using element = int8_t;
    static constexpr int group = 4;
    static inline vi dot(vi sum, vi a, vi w) {
        return (vi)vusdotq_s32((int32x4_t)sum, vreinterpretq_u8_s32((int32x4_t)a), vreinterpretq_s8_s32((int32x4_t)w));
    }
    template <int lane>
    static inline vi dot_lane(vi sum, vi a, vi w) {  // sudot
        return (vi)vsudotq_laneq_s32((int32x4_t)sum, vreinterpretq_s8_s32((int32x4_t)w), vreinterpretq_u8_s32((int32x4_t)a), lane);
    }
};
using ScoresU8S8 = DotU8S8;
using MixingU8S8 = DotU8S8;
static constexpr int activation_offset = 0;
#include "unit.inl"
}}  // namespace edgekit::neon_i8mm

namespace edgekit {
const Kernels* kernels_neon_i8mm() {
    return arm_has(ArmFeature::i8mm) ? &neon_i8mm::kernels : nullptr;
}
}
#else
namespace edgekit { const Kernels* kernels_neon_i8mm() { return nullptr; } }
#endif
