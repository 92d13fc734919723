"""Weight GEMMs of an integer TFLite graph: the plan's int8 weights on int16 activations."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from edgekit.backends.tflite.builder import channels_last
from edgekit.backends.tflite.flatbuffer import Value
from edgekit.backends.tflite.int16.fixed_point import FixedPointBuilder
from edgekit.graph.gemms import GemmStrategy
from edgekit.plan.quant import GemmPlan, PerTokenInput, QuantPlan


class Int16Gemms(GemmStrategy[Value]):
    """w8a16: the plan's weights and uncorrected biases, since int16 inputs make no error to repair."""

    def __init__(self, builder: FixedPointBuilder, plan: QuantPlan) -> None:
        self.builder, self.plan, self.tensors = builder, plan, plan.float_tensors

    @override
    def linear(self, name: str, x: Value) -> Value:
        """FULLY_CONNECTED with bias."""
        return self.builder.linear(self.gemm(name), x)

    @override
    def patch_embed(self, name: str, pixels: Value) -> Value:
        """CONV_2D, kernel and stride of one patch."""
        gemm = self.gemm(name)
        kernel = channels_last(gemm.weight.reshape(self.tensors[f"{name}.weight"].shape))
        return self.builder.flatten(f"{name}.tokens", self.builder.conv(gemm, kernel, pixels))

    @override
    def attention(self, name: str, q: Value, k: Value, v: Value) -> Value:
        """BATCH_MATMUL, SOFTMAX, BATCH_MATMUL; the scale multiplies q unless it is folded away."""
        return self.builder.attention(name, q, k, v, self.tensors[f"{name}.scale"].item())

    def gemm(self, name: str) -> GemmPlan:
        """The plan's integers; rounded to nearest where the plan keeps floats, which no integer device can."""
        if name in self.plan.gemms:
            return self.plan.gemms[name]
        weight = self.tensors[f"{name}.weight"]
        return round_to_nearest(name, weight.reshape(len(weight), -1), self.tensors[f"{name}.bias"])


def round_to_nearest(name: str, weight: np.ndarray, bias: np.ndarray) -> GemmPlan:
    """Weights (out, in) to the nearest int8 of a scale per output channel."""
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
    return GemmPlan(name, np.rint(weight / scale).astype(np.int8), scale, 8, bias, bias, PerTokenInput())
