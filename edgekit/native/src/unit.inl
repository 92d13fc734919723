// One instruction set: the including file has defined NAME, LANES, VECTORS, ROWS, VECTOR_REGISTER, activation_offset and
// the integer dot products Pairs, Quads (uint8 * int8 of the linears), FullQuads and UnsignedQuads (of attention).
#include "gemm.inl"
#include "chains.inl"
#include "rows.inl"
static constexpr int max_head_dim = 1024;
#include "attention.inl"
#include "attend.inl"

static double ceiling(Format format, int rounds) {
    double macs = 0;
    with_dot(format, [&](auto dot) { macs = ceiling_of<decltype(dot)>(rounds); });
    return macs;
}

static const Kernels kernels = {
    NAME, choose_format, rows_scratch, project, finish, query_block, head_bytes, pack_any, attend_scratch, attend_any,
    ceiling, gemm_only,
};
