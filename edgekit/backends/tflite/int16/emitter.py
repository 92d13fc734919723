"""The backbone as a TFLite graph of integers alone: int8 in, out and in the weights, int16 everywhere between.

What tflite-runtime 2.14 has no int16 kernel for is written in what it has: GELU by LOGISTIC, 1 / sqrt(x) by GATHER from
a table. Variances are sums of a BATCH_MATMUL, so that no square has to fit int16.
"""

from __future__ import annotations

import math

import numpy as np
from typing_extensions import override

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.tflite.emitter import TfliteBackboneEmitter
from edgekit.backends.tflite.flatbuffer import Value
from edgekit.backends.tflite.int16.fixed_point import FixedPointBuilder
from edgekit.backends.tflite.int16.gemms import Int16Gemms, round_to_nearest
from edgekit.errors import ExportError
from edgekit.graph.backbone import emit_backbone
from edgekit.graph.emitter import Activation
from edgekit.plan.quant import QuantPlan

_GELU_LIMIT = 4.0  # beyond it GELU is x or 0 to within 2e-4


class Int16Emitter(TfliteBackboneEmitter):
    """Writes the backbone of one plan; it has no heads, whose features would need ranges of their own."""

    builder: FixedPointBuilder

    def __init__(self, plan: QuantPlan, builder: FixedPointBuilder) -> None:
        super().__init__(plan.config, plan.float_tensors, Int16Gemms(builder, plan))
        self.builder = builder

    @override
    def inverse_deviation(self, name: str, centred: Value, axis: Value) -> tuple[Value, float]:
        """1 over the length of the deviations, by a sum of squares; the factor is sqrt(D)."""
        width, column = centred.shape[-1], (*centred.shape[:-1], 1)
        rows = self.builder.reshape(f"{name}.rows", centred, (-1, self.tokens, 1, width))
        squares = self.builder.matmul(f"{name}.squares", rows, rows, (-1, self.tokens, 1, 1), transpose=True)
        total = self.builder.reshape(f"{name}.sum", squares, column)
        inverse = self.builder.inverse_root(f"{name}.inverse", total, width * self.config.norm_eps)
        return inverse, math.sqrt(width)

    @override
    def matmul(self, x: Value, matrix: np.ndarray, name: str = "") -> Value:
        gemm = round_to_nearest(name, matrix.T, np.zeros(matrix.shape[1], np.float32))
        return self.builder.linear(gemm, x)

    @override
    def activate(self, x: Value, function: Activation, name: str = "") -> Value:
        match function:
            case "gelu":
                return self._gelu(name, x)
            case "sigmoid":
                return self.builder.sigmoid(name, x)
            case "relu":
                raise ExportError("the w8a16 form of TFLite writes no ReLU", why="only heads have one")

    def _gelu(self, name: str, x: Value) -> Value:
        """x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), GELU's tanh form: within 5e-4 of the exact one."""
        builder, slope = self.builder, 2 * math.sqrt(2 / math.pi)
        near = builder.clamp(f"{name}.near", x, _GELU_LIMIT)  # where the cube stays small
        square = builder.mul(f"{name}.square", near, near)
        bent = builder.mul(f"{name}.bent", square, builder.scalar(f"{name}.cubic", 0.044715 * slope))
        factor = builder.add(f"{name}.factor", bent, builder.scalar(f"{name}.slope", slope))
        share = builder.sigmoid(f"{name}.share", builder.mul(f"{name}.argument", near, factor))
        return builder.mul(name, x, share)


def emit_contract(plan: QuantPlan, builder: FixedPointBuilder) -> dict[str, Value]:
    """Write `pixel_values` (B, H, W, 3) -> both outputs; returns the outputs by name, the builder has the input."""
    height, width = (side * plan.config.patch for side in plan.config.grid)
    pixels = builder.input(INPUT_NAME, (-1, height, width, 3))
    backbone = emit_backbone(Int16Emitter(plan, builder), pixels)
    outputs = zip(OUTPUT_NAMES, (backbone.hidden, backbone.pooled), strict=True)
    return {name: builder.output(name, x) for name, x in outputs}
