"""Writes TFLite operators on int16 tensors with int8 weights; or the very same graph in float, to see its ranges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.backends.tflite.flatbuffer import Graph, Quantization, Value
from edgekit.errors import ExportError
from edgekit.plan.quant import GemmPlan

LARGEST = 32767
FLOOR = ".floor"  # suffix of the names whose least value is wanted, not the largest magnitude
HEADROOM = 2.0  # times the peak of calibration that a tensor can hold: one bit of fifteen, against images unlike those
_SUM_LIMIT = 2.0**31 - 1  # of the int32 sums of FULLY_CONNECTED; those of the other kernels are int64


@dataclass(frozen=True)
class Border:
    """The int8 grid of an input or output: real = (q - zero_point) * scale."""

    scale: float
    zero_point: int

    @classmethod
    def over(cls, low: float, high: float) -> Border:
        """The grid of 256 values over that range."""
        scale = float(np.float32((high - low) / 255))
        return cls(scale, int(np.clip(round(-128 - low / scale), -128, 127)))

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """The values of the grid that stand for `x`, float32."""
        q = np.clip(np.rint(x / self.scale) + self.zero_point, -128, 127)
        return ((q - self.zero_point) * self.scale).astype(np.float32)


@dataclass(frozen=True)
class Ranges:
    """What calibration saw, by tensor name: largest magnitude, and least value of what goes through a table."""

    peaks: Mapping[str, float]
    floors: Mapping[str, float]
    borders: Mapping[str, Border]


class FixedPoint:
    """A graph under construction: in int16 with scales from `ranges`, or in float where there are none yet.

    In float, `watched` holds the tensors whose ranges are wanted.
    """

    def __init__(self, ranges: Ranges | None) -> None:
        self.graph, self.ranges = Graph(), ranges
        self.watched: dict[str, Value] = {}
        self.inputs: dict[str, Value] = {}
        self._scales: dict[int, float] = {}

    def input(self, name: str, shape: tuple[int, ...]) -> Value:
        """The int8 input as the same integers in int16: its zero point is left to `convolution`."""
        if self.ranges is None:
            self.inputs[name] = self.graph.input(name, shape)
            return self.inputs[name]
        border = self.ranges.borders[name]
        x = self.graph.input(name, shape, np.int8, grid_of(border.scale, border.zero_point))
        self.inputs[name] = x
        wide = self.graph.add(
            "CAST",
            f"{name}.wide",
            [x],
            shape,
            options=schema.CastOptionsT(),
            dtype=np.int16,
            quantization=grid_of(border.scale),
        )
        self._scales[wide.index] = border.scale
        return wide

    def output(self, name: str, x: Value) -> Value:
        """int16 -> int8."""
        if self.ranges is None:
            return x
        border = self.ranges.borders[name]
        return self.graph.add(
            "QUANTIZE",
            name,
            [x],
            x.shape,
            options=schema.QuantizeOptionsT(),
            version=2,
            dtype=np.int8,
            quantization=grid_of(border.scale, border.zero_point),
        )

    def op(
        self,
        operator: str,
        name: str,
        inputs: Sequence[Value],
        shape: tuple[int, ...],
        *,
        options: object | None = None,
        version: int = 1,
        scale: float | None = None,
    ) -> Value:
        """An operator with one int16 output, whose scale is `scale` or comes from its range."""
        if self.ranges is None:
            value = self.graph.add(operator, name, inputs, shape, options=options, version=version)
            if scale is None:
                self.watched[name] = value
            return value
        if scale is None:
            scale = HEADROOM * max(self.ranges.peaks[name], 1e-6) / LARGEST
        value = self.graph.add(
            operator, name, inputs, shape, options=options, version=version, dtype=np.int16, quantization=grid_of(scale)
        )
        self._scales[value.index] = scale
        return value

    def like(
        self,
        operator: str,
        name: str,
        x: Value,
        constants: Sequence[Value],
        shape: tuple[int, ...],
        *,
        options: object | None = None,
        version: int = 1,
    ) -> Value:
        """An operator that moves the values of `x` about."""
        return self.op(operator, name, [x, *constants], shape, options=options, version=version, scale=self.scale(x))

    def scale(self, x: Value) -> float:
        """Of an int16 tensor; 1 in float."""
        return self._scales.get(x.index, 1.0)

    def constant(self, name: str, value: np.ndarray) -> Value:
        """int16 on the finest symmetric grid that holds all of it."""
        if self.ranges is None:
            return self.graph.constant(name, value.astype(np.float32))
        scale = max(float(np.abs(value).max()), 1e-6) / LARGEST
        stored = self.graph.constant(name, np.rint(value / scale).astype(np.int16), grid_of(scale))
        self._scales[stored.index] = scale
        return stored

    def narrowed(self, name: str, x: Value, peak: float) -> Value:
        """`x` held to [-peak, peak], on a grid of just that."""
        if self.ranges is not None:
            return self.op(
                "QUANTIZE", name, [x], x.shape, options=schema.QuantizeOptionsT(), version=2, scale=peak / LARGEST
            )
        ends = [self.graph.constant(f"{name}.{end}", np.array([end * peak], np.float32)) for end in (1, -1)]
        x = self.graph.add("MINIMUM", f"{name}.below", [x, ends[0]], x.shape)
        return self.graph.add("MAXIMUM", name, [x, ends[1]], x.shape)

    def split(self, name: str, x: Value, parts: int) -> list[Value]:
        """Equal parts along the channels."""
        options = schema.SplitOptionsT()
        options.numSplits = parts
        axis = self.graph.constant(f"{name}.split_axis", np.array(2, np.int32))
        names = [f"{name}.part{i}" for i in range(parts)]
        shapes = [(*x.shape[:-1], x.shape[-1] // parts)] * parts
        if self.ranges is None:
            return self.graph.add_several("SPLIT", names, [axis, x], shapes, options)
        grid = grid_of(self.scale(x))
        found = self.graph.add_several("SPLIT", names, [axis, x], shapes, options, 4, np.dtype(np.int16), grid)
        self._scales |= {value.index: self.scale(x) for value in found}
        return found

    def linear(self, gemm: GemmPlan, x: Value, bias: np.ndarray) -> Value:
        """FULLY_CONNECTED of int16 and the integers of `gemm`.

        Raises:
            ExportError: the weights have scales in groups.
        """
        if (excess := self._excess(gemm, x)) > 1:
            x = self.op(
                "QUANTIZE",
                f"{gemm.name}.coarser",
                [x],
                x.shape,
                options=schema.QuantizeOptionsT(),
                version=2,
                scale=self.scale(x) * excess,
            )
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        shape = (*x.shape[:-1], len(gemm.weight))
        inputs = [x, self._weight(gemm, gemm.weight), self._bias(gemm, x, bias, np.int32)]
        return self.op("FULLY_CONNECTED", gemm.name, inputs, shape, options=options, version=7)

    def convolution(self, gemm: GemmPlan, weight: np.ndarray, x: Value, bias: np.ndarray, patch: int) -> Value:
        """CONV_2D, kernel and stride of one patch; `x` as `input` gave it, whose zero point goes into the bias."""
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.VALID, patch, patch
        options.dilationHFactor = options.dilationWFactor = 1
        shape = (-1, x.shape[1] // patch, x.shape[2] // patch, len(weight))
        zero = 0 if self.ranges is None else self.ranges.borders["pixel_values"].zero_point
        inputs = [x, self._weight(gemm, weight), self._bias(gemm, x, bias, np.int64, zero)]
        return self.op("CONV_2D", gemm.name, inputs, shape, options=options, version=5)

    def _weight(self, gemm: GemmPlan, integers: np.ndarray) -> Value:
        """int8 with a scale per output channel."""
        if gemm.weight_scale.shape[1] > 1:
            raise ExportError(
                f"{gemm.name} has {gemm.weight_scale.shape[1]} weight scales per output channel",
                why="int16 kernels take one",
                fix="a recipe without group_size",
            )
        scale = gemm.weight_scale[:, 0]
        if self.ranges is None:
            wide = integers * scale.reshape(-1, *[1] * (integers.ndim - 1))
            return self.graph.constant(f"{gemm.name}.weight", wide.astype(np.float32))
        return self.graph.constant(f"{gemm.name}.weight_q", integers, Quantization(scale))

    def _excess(self, gemm: GemmPlan, x: Value) -> float:
        """By how much the sums of a GEMM could leave int32, whatever the image within the headroom."""
        if self.ranges is None:
            return 1.0
        integers = np.abs(gemm.weight.astype(np.int64)).sum(axis=1) * float(LARGEST)  # if all of x were at its end
        step = self.scale(x) * gemm.weight_scale[:, 0].astype(np.float64)
        seen = HEADROOM * self.ranges.peaks[gemm.name] / step
        return float(np.minimum(integers, seen).max() / _SUM_LIMIT)

    def _bias(
        self, gemm: GemmPlan, x: Value, bias: np.ndarray, dtype: type[np.int32] | type[np.int64], zero: int = 0
    ) -> Value:
        """In steps of the sums; `zero` is what every integer of `x` has too much."""
        if self.ranges is None:
            return self.graph.constant(f"{gemm.name}.bias", bias.astype(np.float32))
        step = self.scale(x) * gemm.weight_scale[:, 0].astype(np.float64)
        whole = np.rint(bias / step) - zero * gemm.weight.astype(np.int64).sum(axis=1)
        return self.graph.constant(f"{gemm.name}.bias", whole.astype(dtype), Quantization(step))


def grid_of(scale: float, zero_point: int = 0) -> Quantization:
    """One scale and zero point for the whole tensor."""
    return Quantization(np.array([scale], np.float32), zero_point)
