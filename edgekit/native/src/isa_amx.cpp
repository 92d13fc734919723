// AMX: matrix tiles of int8 and of bfloat16 beside AVX-512 with VNNI, which has the rest.
#include "kernels.h"
#if defined(__AMX_INT8__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#include <immintrin.h>

#include <utility>

#include "amx_permission.h"

#define NAME "amx"
#define LANES 16
#define VECTORS 2
#define ROWS 12
#define TILES
#define VECTOR_MAX _mm512_max_ps
#define VECTOR_MIN _mm512_min_ps
#define VECTOR_REGISTER "v"

namespace edgekit { namespace amx {
#include "simd.inl"
#include "tiles_amx.inl"
static bool tiles_permitted() { return amx_request(); }

#include "avx512_dots.inl"
static constexpr int activation_offset = 0;
#include "unit.inl"
}}  // namespace edgekit::amx

namespace edgekit {
const Kernels* kernels_amx() { return amx_possible() ? &amx::kernels : nullptr; }
}
#else
namespace edgekit { const Kernels* kernels_amx() { return nullptr; } }
#endif
