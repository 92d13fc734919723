"""GEMMs whose input tokens are each quantized over a range of their own, in standard ONNX ops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from edgekit.backends.onnx.builder import GraphBuilder
from edgekit.backends.onnx.weights import Storage, channel_scale, integer_weight
from edgekit.plan.quant import LEAST_PEAK, GemmPlan


def token_scaled_gemm(
    graph: GraphBuilder, gemm: GemmPlan, x: ir.Value, product: Callable[[ir.Value], ir.Value]
) -> ir.Value:
    """GEMM (B, N, in) -> (B, N, out): static `product` of tokens divided by their peaks, times the peaks, plus bias.

    The quotients are what a static quantizer is for, so the GEMM in the middle is the runtime's fast one.
    """
    name = gemm.name
    sizes = graph.node("Abs", [x], f"{name}.peak/Abs")
    peak = graph.node("ReduceMax", [sizes, graph.ints(-1)], f"{name}.peak/ReduceMax")
    least = graph.constant(f"float32({LEAST_PEAK})", np.array(LEAST_PEAK, np.float32))
    peak = graph.node("Max", [peak, least], f"{name}.peak/Max")
    inverse = graph.node("Reciprocal", [peak], f"{name}.peak/Reciprocal")
    y = product(graph.node("Mul", [x, inverse], f"{name}.quotient/Mul"))
    y = graph.node("Mul", [y, peak], f"{name}.product/Mul")
    return graph.node("Add", [y, graph.constant(f"{name}.float_bias", gemm.bias)], f"{name}/Add")


def per_token_gemm(graph: GraphBuilder, gemm: GemmPlan, x: ir.Value, storage: Storage) -> ir.Value:
    """GEMM (B, N, in) -> (B, N, out) with the arithmetic of `edgekit.quantization.simulate.per_token_scale`.

    MatMulInteger of ONNX Runtime knows one zero point per tensor, so the tokens' own are taken out afterwards: the
    sum of (q - z) w is that of q w minus z times the column sums of w, exactly, in int32.
    """
    name = gemm.name
    quantized, scale, zero = _quantize_tokens(graph, name, x)
    weight, weight_zero = integer_weight(graph, gemm, storage)
    no_zero = graph.constant("uint8(0)", np.array(0, np.uint8))
    total = graph.node("MatMulInteger", [quantized, weight, no_zero, weight_zero], f"{name}/MatMulInteger")
    sums = graph.constant(f"{name}.weight_sums", gemm.weight.sum(axis=1, dtype=np.int32))
    total = graph.node("Sub", [total, graph.node("Mul", [zero, sums], f"{name}.zero/Mul")], f"{name}/Sub")
    total = graph.node("Cast", [total], f"{name}/Cast", {"to": ir.DataType.FLOAT})
    scale = graph.node("Mul", [scale, channel_scale(graph, gemm)], f"{name}.scale/Mul")  # (B, N, out)
    y = graph.node("Mul", [total, scale], f"{name}/Mul")
    return graph.node("Add", [y, graph.constant(f"{name}.bias", gemm.bias)], f"{name}/Add")


def _quantize_tokens(graph: GraphBuilder, name: str, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """uint8 integers (B, N, in), scale (B, N, 1) float32 and zero point (B, N, 1) int32 of each token."""
    nought, one, top = (graph.constant(f"float32({value})", np.array(value, np.float32)) for value in (0, 1, 255))
    low = graph.node("ReduceMin", [x, graph.ints(-1)], f"{name}.low/ReduceMin")
    low = graph.node("Min", [low, nought], f"{name}.low/Min")
    high = graph.node("ReduceMax", [x, graph.ints(-1)], f"{name}.high/ReduceMax")
    high = graph.node("Max", [high, nought], f"{name}.high/Max")
    scale = graph.node("Div", [graph.node("Sub", [high, low], f"{name}.span/Sub"), top], f"{name}.span/Div")
    flat = graph.node("Equal", [scale, nought], f"{name}.flat/Equal")  # an all-zero token
    scale = graph.node("Where", [flat, one, scale], f"{name}.scale/Where")
    zero = graph.node("Neg", [graph.node("Div", [low, scale], f"{name}.zero/Div")], f"{name}.zero/Neg")
    zero = graph.node("Round", [zero], f"{name}.zero/Round")
    steps = graph.node("Round", [graph.node("Div", [x, scale], f"{name}.input/Div")], f"{name}.input/Round")
    steps = graph.node("Add", [steps, zero], f"{name}.input/Add")
    steps = graph.node("Clip", [steps, nought, top], f"{name}.input/Clip")
    quantized = graph.node("Cast", [steps], f"{name}.input/Cast", {"to": ir.DataType.UINT8})
    return quantized, scale, graph.node("Cast", [zero], f"{name}.zero/Cast", {"to": ir.DataType.INT32})
