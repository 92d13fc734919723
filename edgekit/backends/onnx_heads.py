"""Heads as ONNX nodes, in float32 whatever the backbone's type is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgekit.backends.onnx_writer import Attributes, GraphWriter, contract_value
from edgekit.heads.program import Grid, Head, emit_heads

_FLOAT = ir.DataType.FLOAT
_EPSILON = 1e-6  # of LayerNorm
_FUNCTIONS = {"relu": "Relu", "gelu": "Gelu", "sigmoid": "Sigmoid"}


def head_outputs(
    graph: GraphWriter, heads: Mapping[str, Head], blocks: Sequence[ir.Value], hidden: ir.Value,
    tensors: Mapping[str, np.ndarray], grid: Grid,
) -> list[ir.Value]:  # fmt: skip
    """Write the heads behind a backbone (see `emit_heads`) and return their outputs."""
    found = emit_heads(OnnxOps(graph, grid), heads, blocks, hidden, tensors, grid)
    shapes = {name: head.shape(grid) for name, head in heads.items()}
    return [
        contract_value(graph.node("Reshape", [x, graph.ints(-1, *shapes[name])], name), name, ("batch", *shapes[name]))
        for name, x in found.items()
    ]


class OnnxOps:
    """`edgekit.heads.program.HeadOps` on values of a graph in the making."""

    def __init__(self, graph: GraphWriter, grid: Grid) -> None:
        self.graph, self.rows, self.columns = graph, *grid
        self._head, self._count = "", 0

    def begin(self, name: str) -> None:
        """Names start with the head's."""
        self._head, self._count = f"heads.{name}", 0

    def norm(self, tokens: ir.Value, weight: np.ndarray, bias: np.ndarray) -> ir.Value:
        """LayerNormalization."""
        attributes = {"axis": -1, "epsilon": _EPSILON}
        inputs = [self._wide(tokens), self._number(weight), self._number(bias)]
        return self._node("LayerNormalization", inputs, attributes)

    def turn(self, tokens: ir.Value, matrix: np.ndarray) -> ir.Value:
        """MatMul."""
        return self._node("MatMul", [self._wide(tokens), self._number(matrix)])

    def cls(self, tokens: ir.Value) -> ir.Value:
        """(B, D)."""
        return self._node("Gather", [self._wide(tokens), self.graph.index(0)], {"axis": 1})

    def mean(self, tokens: ir.Value) -> ir.Value:
        """(B, D)."""
        return self._node("ReduceMean", [self._patches(tokens), self.graph.ints(1)], {"keepdims": 0})

    def grid(self, tokens: ir.Value) -> ir.Value:
        """(B, D, rows, columns)."""
        x = self._node("Transpose", [self._patches(tokens)], {"perm": [0, 2, 1]})
        return self._node("Reshape", [x, self.graph.ints(0, 0, self.rows, self.columns)])

    def join(self, values: Sequence[ir.Value]) -> ir.Value:
        """Concat."""
        return values[0] if len(values) == 1 else self._node("Concat", list(values), {"axis": 1})

    def linear(self, vector: ir.Value, weight: np.ndarray, bias: np.ndarray) -> ir.Value:
        """Gemm."""
        return self._node("Gemm", [vector, self._number(weight), self._number(bias)], {"transB": 1})

    def conv(
        self, image: ir.Value, weight: np.ndarray, bias: np.ndarray, *, stride: int = 1, padding: int = 0,
        shuffle: int = 1,
    ) -> ir.Value:  # fmt: skip
        """Conv and DepthToSpace."""
        attributes: Attributes = {
            "kernel_shape": list(weight.shape[2:]), "strides": [stride] * 2, "pads": [padding] * 4,
        }  # fmt: skip
        x = self._node("Conv", [image, self._number(weight), self._number(bias)], attributes)
        if shuffle == 1:
            return x
        return self._node("DepthToSpace", [x], {"blocksize": shuffle, "mode": "CRD"})

    def resize(self, image: ir.Value, size: Grid, corners: Literal["aligned", "free"]) -> ir.Value:
        """Resize of the last two axes."""
        attributes: Attributes = {
            "mode": "linear", "axes": [2, 3],
            "coordinate_transformation_mode": "align_corners" if corners == "aligned" else "half_pixel",
        }  # fmt: skip
        return self._node("Resize", [image, None, None, self.graph.ints(*size)], attributes)

    def plus(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Add."""
        return self._node("Add", [a, b])

    def spread(self, image: ir.Value, vector: ir.Value) -> ir.Value:
        """Unsqueeze and Add."""
        return self._node("Add", [image, self._node("Unsqueeze", [vector, self.graph.ints(2, 3)])])

    def offset(self, x: ir.Value, value: float) -> ir.Value:
        """Add."""
        return self._node("Add", [x, self._number(np.float32(value))])

    def divide(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Div."""
        return self._node("Div", [a, b])

    def apply(self, x: ir.Value, function: Literal["relu", "gelu", "sigmoid"]) -> ir.Value:
        """Relu, Gelu or Sigmoid."""
        return self._node(_FUNCTIONS[function], [x])

    def softmax(self, vector: ir.Value) -> ir.Value:
        """Softmax."""
        return self._node("Softmax", [vector], {"axis": 1})

    def unit(self, vector: ir.Value) -> ir.Value:
        """Divided by its length."""
        length = self._node("ReduceL2", [vector, self.graph.ints(1)], {"keepdims": 1})
        return self._node("Div", [vector, length])

    def _patches(self, tokens: ir.Value) -> ir.Value:
        ints = self.graph.ints
        return self._node("Slice", [self._wide(tokens), ints(-self.rows * self.columns), ints(2**31 - 1), ints(1)])

    def _wide(self, x: ir.Value) -> ir.Value:
        """In float32."""
        narrow = self.graph.float_type != _FLOAT and not (x.name or "").startswith(("heads.", "norm/Cast", "last_"))
        return self._node("Cast", [x], {"to": _FLOAT}) if narrow else x

    def _number(self, value: np.ndarray | np.generic) -> ir.Value:
        self._count += 1
        return self.graph.constant(f"{self._head}/{self._count}", np.asarray(value, np.float32), dtype=_FLOAT)

    def _node(self, kind: str, inputs: Sequence[ir.Value | None], attributes: Attributes | None = None) -> ir.Value:
        self._count += 1
        return self.graph.node(kind, inputs, f"{self._head}/{self._count}.{kind}", attributes)
