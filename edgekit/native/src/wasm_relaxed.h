// What this engine's relaxed dot products compute. WebAssembly fixes them for a second operand of 7 bits alone: one of 8 bits
// counts as signed or not, and sums of two products may saturate at 16 bits, as the CPU's own instruction has it. An engine
// does the same everywhere (the relaxed parameters of the specification are constants of an execution environment), so that a
// look at the start decides which unit is exact.
#pragma once

#include <stdint.h>
#include <wasm_simd128.h>

namespace edgekit { namespace {

// vpdpbusd of x86 with VNNI; sdot of AArch64; pmaddubsw of other x86, exact while a pair of products fits 16 bits.
enum class RelaxedDot { exact_unsigned, exact_signed, saturating_unsigned, other };

// The four products of each group of four bytes and their sum, with the second operand as signed or unsigned bytes.
inline bool is_exact(bool is_signed, const int8_t* pairs, int count) {
    alignas(16) int8_t a[16], b[16];
    for (int i = 0; i < count; ++i)
        for (int j = 0; j < count; ++j) {
            for (int k = 0; k < 16; ++k) {
                const int8_t* from = pairs + 2 * (k % 4 < 2 ? i : (j + k / 4) % count);
                a[k] = from[0], b[k] = from[1];
            }
            const v128_t start = wasm_i32x4_make(-7, 1 << 20, 0, 5);
            alignas(16) int32_t found[4], expected[4];
            wasm_v128_store(found, wasm_i32x4_relaxed_dot_i8x16_i7x16_add(wasm_v128_load(a), wasm_v128_load(b), start));
            wasm_v128_store(expected, start);
            for (int k = 0; k < 16; ++k) expected[k / 4] += a[k] * (is_signed ? int(b[k]) : int(uint8_t(b[k])));
            for (int k = 0; k < 4; ++k)
                if (found[k] != expected[k]) return false;
        }
    return true;
}

// Sums of pairs in 16 bits, of which none leaves them.
inline bool is_exact_in_words() {
    const int8_t pairs[][2] = {{64, -1}, {-64, -1}, {127, 1}, {-128, 127}, {1, -1}, {-1, -128}, {0, -1}, {63, -2}};
    for (const auto& one : pairs) {
        alignas(16) int8_t a[16], b[16];
        for (int k = 0; k < 16; ++k) a[k] = one[0], b[k] = one[1];
        const v128_t sums = wasm_i16x8_relaxed_dot_i8x16_i7x16(wasm_v128_load(a), wasm_v128_load(b));
        if (wasm_i16x8_extract_lane(sums, 0) != 2 * one[0] * int(uint8_t(one[1]))) return false;
    }
    return true;
}

inline RelaxedDot relaxed_dot() {
    static const RelaxedDot found = [] {
        const int8_t pairs[][2] = {{127, -1}, {-128, -1}, {127, 127}, {-128, 127}, {127, -127}, {-127, -127}, {-128, -128}, {-1, -2}, {3, 0}};
        const int count = sizeof pairs / sizeof pairs[0];
        if (is_exact(false, pairs[0], count)) return RelaxedDot::exact_unsigned;
        if (is_exact(true, pairs[0], count)) return RelaxedDot::exact_signed;
        return is_exact_in_words() ? RelaxedDot::saturating_unsigned : RelaxedDot::other;
    }();
    return found;
}

}}  // namespace edgekit
