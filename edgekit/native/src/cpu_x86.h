// What an x86-64 CPU and its system say they can do. Not __builtin_cpu_supports: older compilers lack the newer names, and
// the table that it reads is missing in the run-time library of some (zig's, which links the wheels).
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>

namespace edgekit {

// Each with all that its unit's code uses beside it, in the CPU and in the registers that the system saves.
enum class X86Feature { avx2, avxvnni, avx512vnni, amx };

static inline bool x86_has(X86Feature feature) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return false;  // OSXSAVE: xgetbv exists
    const bool fma = c >> 12 & 1;
    unsigned saved, high;
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    const auto saves = [saved](unsigned states) { return (saved & states) == states; };
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const bool avx2 = fma && (b >> 5 & 1) && saves(0x6);  // XMM, YMM
    constexpr unsigned bw_vl = 1u << 30 | 1u << 31, tiles = 1u << 22 | 1u << 24 | 1u << 25;  // AMX-BF16, -TILE, -INT8
    const bool avx512vnni = avx2 && (b & bw_vl) == bw_vl && (c >> 11 & 1) && saves(0xe0);  // masks, ZMM
    const bool amx = avx512vnni && (d & tiles) == tiles && saves(0x60000);  // tile configuration, tiles
    const bool more = __get_cpuid_count(7, 1, &a, &b, &c, &d);
    switch (feature) {
        case X86Feature::avx2: return avx2;
        case X86Feature::avxvnni: return avx2 && more && (a >> 4 & 1);
        case X86Feature::avx512vnni: return avx512vnni;
        case X86Feature::amx: return amx && more && (a >> 5 & 1);  // AVX512-BF16
    }
    return false;
}

}  // namespace edgekit
#endif
