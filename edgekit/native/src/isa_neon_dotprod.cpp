// AArch64 with sdot: int8 * int8, so uint8 activations are stored less 128 and the zero point likewise.
#include "kernels.h"
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#include "cpu_arm.h"

#define NAME "neon_dotprod"
#define LANES 4
#define VECTORS 4
#define ROWS 5  // 20 sums, 5 rows and 4 weights fit the 32 registers; 4 and 6 rows are slower (benchmarks/arm_model.py)
#define VECTOR_REGISTER "w"

namespace edgekit { namespace neon_dotprod {
#include "simd.inl"
#include "neon_s16.inl"

struct DotU8S8 {
    using acc = vi;
    using element = int8_t;
    static constexpr int group = 4;
    static inline vi dot(vi sum, vi a, vi w) {
        return (vi)vdotq_s32((int32x4_t)sum, vreinterpretq_s8_s32((int32x4_t)a), vreinterpretq_s8_s32((int32x4_t)w));
    }
    template <int lane>
    static inline vi dot_lane(vi sum, vi a, vi w) {
        return (vi)vdotq_laneq_s32((int32x4_t)sum, vreinterpretq_s8_s32((int32x4_t)w), vreinterpretq_s8_s32((int32x4_t)a), lane);
    }
};
using ScoresU8S8 = DotU8S8;
using MixingU8S8 = DotS16;
static constexpr int activation_offset = 128;
#include "unit.inl"
}}  // namespace edgekit::neon_dotprod

namespace edgekit {
const Kernels* kernels_neon_dotprod() {
    return arm_has(ArmFeature::dotprod) ? &neon_dotprod::kernels : nullptr;
}
}
#else
namespace edgekit { const Kernels* kernels_neon_dotprod() { return nullptr; } }
#endif
