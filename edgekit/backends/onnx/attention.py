"""Attention with both products in integers (level "all"), in standard ONNX ops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgekit.backends.onnx.builder import GraphBuilder
from edgekit.plan.quant import MatmulPlan, dither


def integer_attention(
    graph: GraphBuilder,
    matmul: MatmulPlan,
    scale: float,
    qkv: tuple[ir.Value, ir.Value, ir.Value],
    tokens: int,
    *,
    fixed: bool = True,
) -> ir.Value:
    """softmax(q k^T * scale) v of q, k, v (B, H, tokens, d), as `edgekit.quantization.simulate.IntegerMix` has it.

    q, k and v are int8 per head, stored as uint8 with zero point 128 so that no CPU saturates. The numerators
    exp(s - max) are uint8 with one fixed scale, rounded after the plan's `dither`, and their rounded sum divides at the
    end: no probability is lost. Where not `fixed`, `tokens` is the most there may be.
    """
    name = matmul.name
    q, k, v = (
        _quantize(graph, f"{name}.{part}", x, getattr(matmul, f"{role}_scale"))
        for part, role, x in zip("qkv", ("query", "key", "value"), qkv, strict=True)
    )
    middle = graph.constant("uint8(128)", np.array(128, np.uint8))
    keys = graph.node("Transpose", [k], f"{name}.k/Transpose", {"perm": [0, 1, 3, 2]})  # (B, H, d, N)
    logits = graph.node("MatMulInteger", [q, keys, middle, middle], f"{name}.logits/MatMulInteger")  # (B, H, N, N)
    logits = graph.node("Cast", [logits], f"{name}.logits/Cast", {"to": ir.DataType.FLOAT})
    step = (matmul.query_scale * matmul.key_scale * np.float32(scale)).reshape(-1, 1, 1)
    logits = graph.node("Mul", [logits, graph.constant(f"{name}.logits_scale", step)], f"{name}.logits/Mul")
    peak = graph.node("ReduceMax", [logits, graph.ints(-1)], f"{name}.peak/ReduceMax")
    numerators = graph.node("Sub", [logits, peak], f"{name}.numerators/Sub")
    numerators = graph.node("Exp", [numerators], f"{name}.numerators/Exp")
    offsets = graph.constant(f"{name}.dither", dither(tokens, matmul.probability_scale))
    if not fixed:
        count = graph.node("Shape", [k], f"{name}.count/Shape", {"start": 2, "end": 3})
        offsets = graph.node("Slice", [offsets, graph.ints(0), count], f"{name}.dither/Slice")
    numerators = graph.node("Add", [numerators, offsets], f"{name}.numerators/Add")
    unit = graph.constant(f"{name}.probability_scale", np.array(matmul.probability_scale, np.float32))
    nothing = graph.constant("uint8(0)", np.array(0, np.uint8))
    p = graph.node("QuantizeLinear", [numerators, unit, nothing], f"{name}.numerators/QuantizeLinear")
    mixed = graph.node("MatMulInteger", [p, v, nothing, middle], f"{name}.mix/MatMulInteger")  # (B, H, N, d)
    mixed = graph.node("Cast", [mixed], f"{name}.mix/Cast", {"to": ir.DataType.FLOAT})
    value_scale = graph.constant(f"{name}.value_scale", matmul.value_scale.reshape(-1, 1, 1))
    mixed = graph.node("Mul", [mixed, value_scale], f"{name}.mix/Mul")
    whole = graph.node("Cast", [p], f"{name}.sum/Cast", {"to": ir.DataType.FLOAT})
    whole = graph.node("ReduceSum", [whole, graph.ints(-1)], f"{name}.sum/ReduceSum")  # (B, H, N, 1)
    return graph.node("Div", [mixed, whole], f"{name}.mix/Div")


def _quantize(graph: GraphBuilder, name: str, x: ir.Value, scale: np.ndarray) -> ir.Value:
    """uint8 around 128, one scale per head; -128 cannot occur since the simulator's int8 is symmetric."""
    scales = graph.constant(f"{name}_scale", scale)
    zeros = graph.constant(f"{name}_zero_point", np.full(len(scale), 128, np.uint8))
    x = graph.node("QuantizeLinear", [x, scales, zeros], f"{name}/QuantizeLinear", {"axis": 1})
    one = graph.constant("uint8(1)", np.array(1, np.uint8))
    return graph.node("Max", [x, one], f"{name}/Max")
