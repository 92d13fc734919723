"""Weights and biases of a plan's GEMMs as ONNX initializers: integers as the plan has them, nothing rounded again."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir

from edgekit.backends.onnx.builder import GraphBuilder
from edgekit.plan.quant import GemmPlan, StaticInput

Storage = Literal["int8", "uint8"]
"""How 8-bit weights are stored: as they are, or plus 128 with zero point 128, which saturates on no CPU."""

LARGEST_INT32_BIAS = 2**30  # leaves as much again for the accumulated products
BLOCK_SIZES = (128, 64, 32, 16)  # that MatMulNBits of ONNX Runtime takes, largest first


def integer_weight(graph: GraphBuilder, gemm: GemmPlan, storage: Storage, part: str = "") -> tuple[ir.Value, ir.Value]:
    """The weights as 8-bit initializer (in, out), and their zero points (out,) for that part of the tokens."""
    offset = 128 if storage == "uint8" else 0
    stored = (gemm.weight.T.astype(np.int16) + offset).astype(storage)
    zero = np.full(len(gemm.weight), offset, storage)
    return graph.constant(f"{gemm.name}.weight", stored), graph.constant(f"{gemm.name}{part}.weight_zero_point", zero)


def channel_scale(graph: GraphBuilder, gemm: GemmPlan) -> ir.Value:
    """The weight scales (out,) of a GEMM without groups."""
    return graph.constant(f"{gemm.name}.weight_scale", gemm.weight_scale[:, 0])


def block_size_of(gemm: GemmPlan) -> int | None:
    """Block size under which the weights can be stored in blocks: the plan's groups, or equal parts of a whole row."""
    features = gemm.weight.shape[1]
    if gemm.group_size in BLOCK_SIZES:
        return gemm.group_size
    if gemm.group_size == features:
        return next((size for size in BLOCK_SIZES if features % size == 0), None)
    return None


def blocked_weight(graph: GraphBuilder, gemm: GemmPlan) -> ir.Value:
    """The weights (in, out) as int4 behind a DequantizeLinear with a scale (and zero point) per group of inputs."""
    size = block_size_of(gemm) or gemm.group_size

    def blocks(values: np.ndarray) -> np.ndarray:
        """Transpose values per group and repeat them per block: (out, groups) -> (in / size, out)."""
        return np.repeat(values, gemm.group_size // size, axis=1).T

    inputs = [
        graph.constant(f"{gemm.name}.weight", gemm.weight.T, dtype=ir.DataType.INT4),
        graph.constant(f"{gemm.name}.weight_scale", blocks(gemm.weight_scale)),
    ]
    if gemm.weight_zero_point is not None:
        zeros = blocks(gemm.weight_zero_point)
        inputs.append(graph.constant(f"{gemm.name}.weight_zero_point", zeros, dtype=ir.DataType.INT4))
    attributes = {"axis": 0, "block_size": size}
    return graph.node("DequantizeLinear", inputs, f"{gemm.name}.weight/DequantizeLinear", attributes)


def accumulator_scale(gemm: GemmPlan, quantizer: StaticInput) -> np.ndarray:
    """Scale of the int32 accumulator: (out,) float32."""
    scale: np.ndarray = np.float32(quantizer.scale) * gemm.weight_scale[:, 0]
    return scale


def int32_bias(gemm: GemmPlan, quantizer: StaticInput) -> np.ndarray | None:
    """The bias in accumulator steps, (out,) int32; None when some channel's scale is too small to hold it."""
    steps = np.rint(gemm.bias.astype(np.float64) / accumulator_scale(gemm, quantizer))
    return steps.astype(np.int32) if np.abs(steps).max() < LARGEST_INT32_BIAS else None
