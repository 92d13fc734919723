// WebAssembly on x86 without VNNI: relaxed byte products are added in 16 bits and saturate, so they come in chains.
#include "kernels.h"
#if defined(__wasm_relaxed_simd__)
#include "wasm_relaxed.h"

#define NAME "wasm_chained"
#define LANES 4
#define VECTORS 4
#define ROWS 2
#define VECTOR_REGISTER "r"

namespace edgekit { namespace wasm_chained {
#include "simd.inl"
#include "wasm_s16.inl"

struct DotU8S8 {
    using acc = vi;
    typedef int16_t narrow __attribute__((vector_size(16)));
    using element = int8_t;
    static constexpr int group = 4;
    static inline narrow products(vi a, vi w) { return (narrow)wasm_i16x8_relaxed_dot_i8x16_i7x16((v128_t)w, (v128_t)a); }
    static inline vi widened(narrow sums) { return (vi)wasm_i32x4_extadd_pairwise_i16x8((v128_t)sums); }
};
using ScoresU8S8 = DotS16;
using MixingU8S8 = DotS16;
static constexpr int activation_offset = 0;
#include "unit.inl"
}}  // namespace edgekit::wasm_chained

namespace edgekit {
const Kernels* kernels_wasm_chained() {
    const RelaxedDot dot = relaxed_dot();  // what is exact in 32 bits is so in 16: tests run this unit there as well
    const bool is_unsigned = dot == RelaxedDot::exact_unsigned || dot == RelaxedDot::saturating_unsigned;
    return is_unsigned && is_exact_in_words() ? &wasm_chained::kernels : nullptr;
}
}
#else
namespace edgekit { const Kernels* kernels_wasm_chained() { return nullptr; } }
#endif
