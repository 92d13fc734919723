"""TFLite operators on int16 activations with int8 weights, and the quantization parameters they need.

Every int16 tensor is symmetric and has one scale; only the file's input and outputs are int8. The same graph is also
built in float, to observe its ranges (`edgekit.backends.tflite.int16.ranges`): `FixedPointBuilder` is what both have.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from typing_extensions import override

from edgekit.artifact import INPUT_NAME
from edgekit.backends.tflite.builder import OperatorBuilder, Scale, Shape
from edgekit.backends.tflite.flatbuffer import Quantization, Value
from edgekit.errors import ExportError
from edgekit.plan.quant import GemmPlan

QMAX = 32767
HEADROOM = 2.0  # activation range = 2x calibration abs-max: 1 of the 15 bits, against images unlike those
_SUM_LIMIT = 2.0**31 - 1  # of the int32 sums of FULLY_CONNECTED; those of the other kernels are int64
_VERSIONS = {  # of each operator the lowest that knows int16; 1 of those not named
    "ADD": 3,
    "BATCH_MATMUL": 3,
    "CONCATENATION": 3,
    "CONV_2D": 5,
    "FULLY_CONNECTED": 7,
    "LOGISTIC": 3,
    "MEAN": 3,
    "MUL": 4,
    "QUANTIZE": 2,
    "SOFTMAX": 3,
    "SPLIT": 4,
    "STRIDED_SLICE": 4,
    "SUB": 5,
    "TRANSPOSE": 4,
}


@dataclass(frozen=True)
class IoQuantParams:
    """Quantization parameters of an int8 input or output: real = (q - zero_point) * scale."""

    scale: float
    zero_point: int

    @classmethod
    def from_range(cls, low: float, high: float) -> IoQuantParams:
        """Parameters whose 256 values span [low, high]."""
        scale = float(np.float32((high - low) / 255))
        return cls(scale, int(np.clip(round(-128 - low / scale), -128, 127)))

    def fake_quantize(self, x: np.ndarray) -> np.ndarray:
        """x quantized and dequantized again, float32."""
        q = np.clip(np.rint(x / self.scale) + self.zero_point, -128, 127)
        return ((q - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Ranges:
    """Ranges observed on calibration images, by tensor name."""

    abs_max: Mapping[str, float]  # of each activation
    minima: Mapping[str, float]  # of each sum of squares that goes through a table, by the name of the table's output
    io: Mapping[str, IoQuantParams]  # of the input and the outputs


class FixedPointBuilder(OperatorBuilder):
    """The operators of an integer graph beyond the common ones."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[str, Value] = {}

    @abstractmethod
    def input(self, name: str, shape: Shape) -> Value:
        """The int8 input as the same integers in int16: `conv` takes care of its zero point."""

    @abstractmethod
    def output(self, name: str, x: Value) -> Value:
        """int16 -> int8."""

    @abstractmethod
    def clamp(self, name: str, x: Value, limit: float) -> Value:
        """`x` held to [-limit, limit], with the scale of just that range."""

    def linear(self, gemm: GemmPlan, x: Value) -> Value:
        """FULLY_CONNECTED of `x` (B, N, in) with the integers and the uncorrected bias of `gemm`.

        Raises:
            ExportError: the weights have scales in groups.
        """
        return self.fully_connected(gemm.name, self.operands(gemm, gemm.weight, x))

    def conv(self, gemm: GemmPlan, kernel: np.ndarray, pixels: Value) -> Value:
        """CONV_2D of the input with the weights of `gemm` laid out as a `kernel` (D, patch, patch, 3).

        Raises:
            ExportError: the weights have scales in groups.
        """
        return self.patch_conv(gemm.name, self.operands(gemm, kernel, pixels))

    @abstractmethod
    def operands(self, gemm: GemmPlan, weight: np.ndarray, x: Value) -> list[Value]:
        """x, weight and bias of a GEMM; the integers `weight` have 4 axes for a convolution of the input."""

    @abstractmethod
    def inverse_root(self, name: str, x: Value, epsilon: float) -> Value:
        """1 / sqrt(x + epsilon) of sums of squares."""


class Int16Builder(FixedPointBuilder):
    """Operators on int16, with scales from calibration."""

    def __init__(self, ranges: Ranges) -> None:
        super().__init__()
        self.ranges = ranges
        self._scales: dict[int, float] = {}  # of each int16 tensor, by its index

    def scale(self, x: Value) -> float:
        """The scale of an int16 tensor."""
        return self._scales[x.index]

    @override
    def emit(
        self, operator: str, inputs: Sequence[Value], outputs: Mapping[str, Shape], options: object | None, scale: Scale
    ) -> list[Value]:
        names, shapes, version = [*outputs], [*outputs.values()], _VERSIONS.get(operator, 1)
        if scale is None:
            scale = HEADROOM * max(self.ranges.abs_max[names[0]], 1e-6) / QMAX
        elif isinstance(scale, Value):
            scale = self.scale(scale)
        if isinstance(options, schema.AddOptionsT | schema.SubOptionsT):
            options.potScaleInt16 = False  # scales need not be powers of two
        kind, quantization = np.dtype(np.int16), per_tensor(scale)
        values = self.graph.add_several(operator, names, inputs, shapes, options, version, kind, quantization)
        self._scales |= {value.index: scale for value in values}
        return values

    @override
    def number(self, name: str, value: np.ndarray) -> Value:
        """int16 constant with the finest scale that holds all of it."""
        scale = max(float(np.abs(value).max()), 1e-6) / QMAX
        stored = self.graph.constant(name, np.rint(value / scale).astype(np.int16), per_tensor(scale))
        self._scales[stored.index] = scale
        return stored

    @override
    def input(self, name: str, shape: Shape) -> Value:
        io = self.ranges.io[name]
        x = self.graph.input(name, shape, np.int8, per_tensor(io.scale, io.zero_point))
        self.inputs[name] = x
        return self.op("CAST", f"{name}.wide", [x], shape, options=schema.CastOptionsT(), scale=io.scale)

    @override
    def output(self, name: str, x: Value) -> Value:
        io = self.ranges.io[name]
        return self.graph.add(
            "QUANTIZE",
            name,
            [x],
            x.shape,
            options=schema.QuantizeOptionsT(),
            version=_VERSIONS["QUANTIZE"],
            dtype=np.int8,
            quantization=per_tensor(io.scale, io.zero_point),
        )

    @override
    def clamp(self, name: str, x: Value, limit: float) -> Value:
        return self._rescale(name, x, limit / QMAX)  # QUANTIZE saturates

    @override
    def operands(self, gemm: GemmPlan, weight: np.ndarray, x: Value) -> list[Value]:
        zero_point, kind = (self.ranges.io[INPUT_NAME].zero_point, np.int64) if weight.ndim == 4 else (0, np.int32)
        if kind is np.int32 and (excess := self._excess(gemm, x)) > 1:
            x = self._rescale(f"{gemm.name}.coarser", x, self.scale(x) * excess)
        scale = self._accumulator_scale(gemm, x)
        # what the zero point of the input adds to each sum is taken off in its bias
        bias = np.rint(gemm.bias_dynamic / scale) - zero_point * gemm.weight.astype(np.int64).sum(axis=1)
        return [
            x,
            self.graph.constant(f"{gemm.name}.weight_q", weight, Quantization(channel_scale(gemm))),
            self.graph.constant(f"{gemm.name}.bias", bias.astype(kind), Quantization(scale)),
        ]

    @override
    def inverse_root(self, name: str, x: Value, epsilon: float) -> Value:
        """Reciprocal root by a table over the int16 values from 0 on, whose scale is that of the least sum observed."""
        sums = np.arange(QMAX + 1) * self.scale(x) + epsilon
        least = self.ranges.minima[name] / HEADROOM + epsilon
        scale = 1 / math.sqrt(least) / QMAX
        table = np.clip(np.rint(1 / np.sqrt(sums) / scale), 0, QMAX).astype(np.int16)
        index = self.graph.add("CAST", f"{name}.index", [x], x.shape, options=schema.CastOptionsT(), dtype=np.int32)
        stored = self.graph.constant(f"{name}.table", table, per_tensor(scale))
        return self.op("GATHER", name, [stored, index], x.shape, options=schema.GatherOptionsT(), scale=scale)

    def _rescale(self, name: str, x: Value, scale: float) -> Value:
        """`x` with another scale."""
        return self.op("QUANTIZE", name, [x], x.shape, options=schema.QuantizeOptionsT(), scale=scale)

    def _excess(self, gemm: GemmPlan, x: Value) -> float:
        """The factor by which the sums of a GEMM could exceed int32, whatever the image within the headroom."""
        largest = np.abs(gemm.weight.astype(np.int64)).sum(axis=1) * float(QMAX)  # if all of x were at its end
        observed = HEADROOM * self.ranges.abs_max[gemm.name] / self._accumulator_scale(gemm, x)
        return float(np.minimum(largest, observed).max() / _SUM_LIMIT)

    def _accumulator_scale(self, gemm: GemmPlan, x: Value) -> np.ndarray:
        """Scale (out,) of the sums, float64."""
        return self.scale(x) * channel_scale(gemm).astype(np.float64)


def channel_scale(gemm: GemmPlan) -> np.ndarray:
    """Weight scale (out,) of each output channel.

    Raises:
        ExportError: the plan has scales for groups of input channels.
    """
    groups = gemm.weight_scale.shape[1]
    if groups > 1:
        raise ExportError(
            f"{gemm.name} has {groups} weight scales per output channel",
            why="int16 kernels take one",
            fix="a recipe without quantize.group_size",
        )
    return gemm.weight_scale[:, 0]


def per_tensor(scale: float, zero_point: int = 0) -> Quantization:
    """One scale and zero point for a whole tensor."""
    return Quantization(np.array([scale], np.float32), zero_point)
