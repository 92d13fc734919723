"""Arithmetic on image sizes as OpenVINO nodes, and the sizes that are read off the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as op
from typing_extensions import override

from edgekit.backends.openvino.builder import constant, ints
from edgekit.graph.sizes import Arithmetic, Elementwise, Function

_PREFIX = "sizes"  # of the nodes' names


class OpenVinoArithmetic(Arithmetic[ov.Output]):
    """Nodes and constants in float32."""

    def __init__(self) -> None:
        self._made = 0

    @override
    def number(self, value: np.ndarray | float) -> ov.Output:
        return constant(np.asarray(value, np.float32), self._name("number"))

    @override
    def span(self, side: ov.Output) -> ov.Output:
        end = op.squeeze(side, ints([0], self._name("axis")), name=self._name("squeeze"))
        numbers = op.range(self.number(0.0), end, self.number(1.0), "f32", name=self._name("range"))
        return self.reshape(numbers.output(0), -1, 1)

    @override
    def pair(self, kind: Elementwise, a: ov.Output, b: ov.Output) -> ov.Output:
        return getattr(op, kind)(a, b, name=self._name(kind)).output(0)

    @override
    def each(self, function: Function, x: ov.Output) -> ov.Output:
        return getattr(op, function)(x, name=self._name(function)).output(0)

    @override
    def matmul(self, a: ov.Output, b: ov.Output) -> ov.Output:
        return op.matmul(a, b, False, False, name=self._name("matmul")).output(0)

    @override
    def row_sum(self, x: ov.Output) -> ov.Output:
        return op.reduce_sum(x, ints([1], self._name("axis")), True, name=self._name("sum")).output(0)

    @override
    def reshape(self, x: ov.Output, *shape: int) -> ov.Output:
        return op.reshape(x, ints(list(shape), self._name("shape")), False, name=self._name("reshape")).output(0)

    @override
    def concat(self, values: Sequence[ov.Output], axis: int) -> ov.Output:
        return op.concat(list(values), axis, name=self._name("concat")).output(0)

    def patch_counts(self, pixels: ov.Output, patch: int) -> tuple[ov.Output, ov.Output]:
        """Rows and columns of patches, (1,) int64 each, of images (B, 3, H, W)."""
        shape = op.shape_of(pixels, name=self._name("pixels"))
        axis = ints(0, self._name("axis"))
        sides = (op.gather(shape, ints([i], self._name("index")), axis, name=self._name("side")) for i in (2, 3))
        counts = (op.divide(side, ints([patch], self._name("patch")), name=self._name("patches")) for side in sides)
        rows, columns = (count.output(0) for count in counts)
        return rows, columns

    def floats(self, counts: tuple[ov.Output, ov.Output]) -> tuple[ov.Output, ov.Output]:
        """The same in float32."""
        rows, columns = (op.convert(count, "f32", name=self._name("count")).output(0) for count in counts)
        return rows, columns

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{_PREFIX}/{self._made}.{kind}"
