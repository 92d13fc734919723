"""Arithmetic on image sizes as ONNX nodes, and the sizes that are read off the images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from typing_extensions import override

from edgekit.backends.onnx.builder import GraphBuilder
from edgekit.graph.sizes import Arithmetic, Elementwise, Function

_PREFIX = "sizes"  # of the nodes' names
_PAIRS = {"add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "minimum": "Min", "maximum": "Max"}
_FUNCTIONS = {"cos": "Cos", "sin": "Sin"}
_FLOAT = ir.DataType.FLOAT


class OnnxArithmetic(Arithmetic[ir.Value]):
    """Nodes and constants in float32, whatever the graph's own type is."""

    def __init__(self, graph: GraphBuilder) -> None:
        self.graph, self._made = graph, 0

    @override
    def number(self, value: np.ndarray | float) -> ir.Value:
        return self.graph.constant(self._name("number"), np.asarray(value, np.float32), dtype=_FLOAT)

    @override
    def span(self, side: ir.Value) -> ir.Value:
        end = self._node("Squeeze", [side])
        return self.reshape(self._node("Range", [self.number(0.0), end, self.number(1.0)]), -1, 1)

    @override
    def pair(self, kind: Elementwise, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._node(_PAIRS[kind], [a, b])

    @override
    def each(self, function: Function, x: ir.Value) -> ir.Value:
        return self._node(_FUNCTIONS[function], [x])

    @override
    def matmul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._node("MatMul", [a, b])

    @override
    def row_sum(self, x: ir.Value) -> ir.Value:
        return self._node("ReduceSum", [x, self.graph.ints(1)])

    @override
    def reshape(self, x: ir.Value, *shape: int) -> ir.Value:
        return self._node("Reshape", [x, self.graph.ints(*shape)])

    @override
    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        return self._node("Concat", list(values), {"axis": axis})

    def narrowed(self, x: ir.Value) -> ir.Value:
        """x in the graph's own float type."""
        return x if self.graph.float_type == _FLOAT else self._node("Cast", [x], {"to": self.graph.float_type})

    def patch_grid(self, counts: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Rows and columns of patches, (1,) float32 each, of those in `patch_counts`."""
        grid = self._node("Cast", [counts], {"to": _FLOAT})
        rows, columns = self.graph.split(grid, (1, 1), 0, f"{_PREFIX}/Split", (f"{_PREFIX}.rows", f"{_PREFIX}.columns"))
        return rows, columns

    def _node(self, kind: str, inputs: list[ir.Value], attributes: dict[str, int] | None = None) -> ir.Value:
        return self.graph.node(kind, inputs, f"{self._name(kind.lower())}/{kind}", attributes)

    def _name(self, kind: str) -> str:
        self._made += 1
        return f"{_PREFIX}/{self._made}.{kind}"


def patch_counts(graph: GraphBuilder, pixels: ir.Value, patch: int) -> ir.Value:
    """Rows and columns of patches (2,) int64 of images (B, 3, H, W)."""
    sides = graph.node("Shape", [pixels], f"{_PREFIX}.pixels/Shape", {"start": 2, "end": 4})
    return graph.node("Div", [sides, graph.ints(patch)], f"{_PREFIX}.patches/Div")
