// One instruction set. The including file has defined NAME, LANES, VECTORS, ROWS, VECTOR_REGISTER and activation_offset, the
// dot products DotS16 (int16 x int16), DotU8S8, and ScoresU8S8 and MixingU8S8 of attention: uint8 x int8 exactly, or DotS16
// where there is no such instruction. With TILES (tiles.h) the linear layers and bfloat16 attention run in AMX tiles.
#include "gemm.inl"
#include "chains.inl"
using PanelsF32 = DotPanels<DotF32>;
#if defined(TILES)
#include "tiles.inl"
using PanelsU8S8 = TilePanels<Format::u8s8_tiles>;
using PanelsS16S8 = TilePanels<Format::s16s8_tiles>;
static constexpr int row_multiple = 32;
#else
template <class Dot>
struct PanelsOf {
    using type = DotPanels<Dot>;
};
template <Chained Dot>
struct PanelsOf<Dot> {
    using type = ChainedPanels<Dot>;
};
using PanelsU8S8 = PanelsOf<DotU8S8>::type;
using PanelsS16S8 = DotPanels<DotS16>;
static constexpr int row_multiple = 1;
#endif
#include "rows.inl"
static constexpr int max_head_dim = 1024;
#include "attention.inl"
#if defined(TILES)
#include "attend_bf16.inl"
#endif
#include "attend.inl"

#if defined(TILES)
static constexpr int speed_attention = EDGEKIT_BF16, quality_attention = EDGEKIT_BF16;
static constexpr bool (*enter)() = tiles_permitted;
#else
static constexpr int speed_attention = EDGEKIT_HYBRID, quality_attention = EDGEKIT_I16;
static constexpr bool (*enter)() = nullptr;
#endif

static const Kernels kernels = {
    NAME, {PanelsU8S8::format, PanelsS16S8::format}, {speed_attention, quality_attention}, columns, row_multiple, enter,
    rows_scratch, project, finish, rotate, query_rows, head_bytes, pack_any, attend_scratch, attend_any, ceiling, gemm_only,
};
