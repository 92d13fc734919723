// WebAssembly where the relaxed dot product is exact for int8 * int8: engines on AArch64, whose CPUs have 32 registers.
#include "kernels.h"
#if defined(__wasm_relaxed_simd__)
#include "wasm_relaxed.h"

#define NAME "wasm_signed"
#define LANES 4
#define VECTORS 4
#define ROWS 4
#define VECTOR_REGISTER "r"

namespace edgekit { namespace wasm_signed {
#include "simd.inl"
#include "wasm_s16.inl"

struct DotU8S8 {
    using acc = vi;
    using element = int8_t;
    static constexpr int group = 4;
    static inline vi dot(vi sum, vi a, vi w) {
        return (vi)wasm_i32x4_relaxed_dot_i8x16_i7x16_add((v128_t)w, (v128_t)a, (v128_t)sum);
    }
};
using ScoresU8S8 = DotU8S8;
using MixingU8S8 = DotS16;
static constexpr int activation_offset = 128;
#include "unit.inl"
}}  // namespace edgekit::wasm_signed

namespace edgekit {
const Kernels* kernels_wasm_signed() {
    return relaxed_dot() == RelaxedDot::exact_signed ? &wasm_signed::kernels : nullptr;
}
}
#else
namespace edgekit { const Kernels* kernels_wasm_signed() { return nullptr; } }
#endif
