// The AMX unit's own code with the tile instructions emulated, for tests on any CPU: chosen only where EDGEKIT_ISA names it.
#include <utility>

#include "amx_permission.h"
#include "kernels.h"
#include "tiles_emulated.h"

#define NAME "amx_emulated"
#define LANES 16
#define VECTORS 2
#define ROWS 12
#define TILES
#define VECTOR_REGISTER "m"

namespace edgekit { namespace amx_emulated {
#include "simd.inl"
using namespace emulated;
static bool tiles_permitted() { return TilePermission<System>::request(); }

// As vcvtneps2bf16: to nearest even, denormals to 0, NaN stays NaN. The result is in the low 16 bits.
static inline vi bf16_bits(vf v) {
    const vi bits = (vi)v, size = bits & 0x7fffffff, top = (bits >> 16) & 0xffff;
    const vi rounded_up = ((bits + 0x7fff + (top & 1)) >> 16) & 0xffff;
    const vi number = size < 0x00800000 ? top & 0x8000 : rounded_up;
    return size > 0x7f800000 ? top | 0x40 : number;
}
static inline vi bf16_of(vf first, vf second) {
    int16_t words[2 * LANES];
    store_integers(words, bf16_bits(first)), store_integers(words + LANES, bf16_bits(second));
    vi packed;
    __builtin_memcpy(&packed, words, sizeof packed);
    return packed;
}
static inline vi bf16_pairs(vf even, vf odd) { return bf16_bits(even) | bf16_bits(odd) << 16; }
static inline bool any_above(vf v, float limit) {
    for (int i = 0; i < LANES; ++i)
        if (v[i] > limit) return true;
    return false;
}

struct DotS16 {
    using acc = vi;
    using element = int16_t;
    static constexpr int group = 2;
    static inline vi dot(vi sum, vi a, vi w) { return sum + ((a << 16) >> 16) * ((w << 16) >> 16) + (a >> 16) * (w >> 16); }
};
struct DotU8S8 {
    using acc = vi;
    using element = int8_t;
    static constexpr int group = 4;
    static inline vi dot(vi sum, vi a, vi w) {
        return sum + (a & 255) * ((w << 24) >> 24) + ((a >> 8) & 255) * ((w << 16) >> 24) +
               ((a >> 16) & 255) * ((w << 8) >> 24) + ((a >> 24) & 255) * (w >> 24);
    }
};
using ScoresU8S8 = DotU8S8;
using MixingU8S8 = DotU8S8;
static constexpr int activation_offset = 0;
#include "unit.inl"
}}  // namespace edgekit::amx_emulated

namespace edgekit {
const Kernels* kernels_amx_emulated() { return TilePermission<emulated::System>::possible() ? &amx_emulated::kernels : nullptr; }
}
