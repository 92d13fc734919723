"""Small pieces of OpenVINO graphs. Every node gets a name: OpenVINO's own counters would make the bytes vary."""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as op

from edgekit.plan.quant import StaticInput

LEVELS = 256  # of a FakeQuantize that stands for a uint8 quantizer
QUANTIZER = "/quantized"  # ends the name of a FakeQuantize; before it stands that of the GEMM it feeds


def constant(value: np.ndarray | np.generic, name: str) -> ov.Output:
    """A constant that owns its data."""
    return op.constant(np.asarray(value, order="C"), name=name).output(0)


def ints(value: int | list[int], name: str) -> ov.Output:
    """An int64 constant: a shape, an order of axes, or a place."""
    return constant(np.array(value, np.int64), name)


def dequantized(integers: np.ndarray, scale: ov.Output, name: str) -> ov.Output:
    """int8 constant -> Convert -> Multiply by `scale`, which has to broadcast: float32 of the integers' shape."""
    floats = op.convert(constant(integers, name), "f32", name=f"{name}/float")
    return op.multiply(floats, scale, name=f"{name}/scaled").output(0)


def fake_quantize(x: ov.Output, quantizer: StaticInput, name: str, ends: tuple[str, str]) -> ov.Output:
    """x rounded to what a static uint8 quantizer can hold; `ends` names the constants of its range."""
    low, high = (constant(value, end) for value, end in zip(quantizer.ends, ends, strict=True))
    return op.fake_quantize(x, low, high, low, high, LEVELS, name=name).output(0)
