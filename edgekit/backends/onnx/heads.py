"""Heads as ONNX nodes, in float32 whatever the backbone's type is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from edgekit.backends.onnx.builder import Attributes, GraphWriter, contract_value
from edgekit.backends.onnx.weights import Storage
from edgekit.graph.heads import Conv, Grid, Head, HeadOps, emit_heads
from edgekit.plan.heads import HeadPlan, LayerPlan
from edgekit.plan.quant import StaticInput

_FLOAT = ir.DataType.FLOAT
_EPSILON = 1e-6  # of LayerNorm
_FUNCTIONS = {"relu": "Relu", "gelu": "Gelu", "sigmoid": "Sigmoid"}


def head_outputs(
    graph: GraphWriter,
    heads: Mapping[str, Head],
    blocks: Sequence[ir.Value],
    hidden: ir.Value,
    tensors: Mapping[str, np.ndarray],
    grid: Grid,
    plan: HeadPlan | None = None,
    storage: Storage = "int8",
) -> list[ir.Value]:
    """Write the heads behind a backbone (see `emit_heads`) and return their outputs."""
    found = emit_heads(OnnxOps(graph, grid, plan, storage), heads, blocks, hidden, tensors, grid)
    shapes = {name: head.shape(grid) for name, head in heads.items()}
    return [
        contract_value(graph.node("Reshape", [x, graph.ints(-1, *shapes[name])], name), name, ("batch", *shapes[name]))
        for name, x in found.items()
    ]


class OnnxOps(HeadOps[ir.Value]):
    """`edgekit.graph.heads.HeadOps` on values of a graph in the making."""

    def __init__(self, graph: GraphWriter, grid: Grid, plan: HeadPlan | None, storage: Storage) -> None:
        super().__init__(plan)
        self.graph, self.storage = graph, storage
        self.rows, self.columns = grid
        self._grids: dict[str | None, StaticInput] = {}  # of values that come out of a quantizer, by name

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

    def resize(self, image: ir.Value, size: Grid, corners: Literal["aligned", "free"]) -> ir.Value:
        """Resize; ONNX Runtime's move to channels-last breaks one that names its axes, so it gets all four sizes."""
        mode = "align_corners" if corners == "aligned" else "half_pixel"
        outer = self._node("Shape", [image], {"start": 0, "end": 2})
        sizes = self._node("Concat", [outer, self.graph.ints(*size)], {"axis": 0})
        attributes: Attributes = {"mode": "linear", "coordinate_transformation_mode": mode}
        return self._node("Resize", [image, None, None, sizes], attributes)

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

    def float_linear(self, vector: ir.Value, weight: np.ndarray, bias: np.ndarray) -> ir.Value:
        """Gemm."""
        return self._node("Gemm", [vector, self._number(weight), self._number(bias)], {"transB": 1})

    def integer_linear(self, vector: ir.Value, layer: LayerPlan) -> ir.Value:
        """MatMul with dequantized weights, which ONNX Runtime keeps as integers as it does no Gemm's, and Add."""
        weight = self._integers(layer.weight.T, layer.weight_scale, axis=1)
        product = self.graph.node("MatMul", [vector, weight], f"{self.here}/MatMul")
        return self.graph.node("Add", [product, self._number(layer.bias)], f"{self.here}/Add")

    def float_conv(self, image: ir.Value, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> ir.Value:
        """Conv, Relu, DepthToSpace."""
        return self._float_conv(image, self._number(weight), bias, shape)

    def integer_conv(self, image: ir.Value, layer: LayerPlan, shape: Conv) -> ir.Value:
        """Conv between quantizers, which ONNX Runtime turns into one QLinearConv; or float, its weights dequantized."""
        weight = self._integers(layer.weight, layer.weight_scale, axis=0)
        if layer.input is None or layer.output is None:
            return self._float_conv(image, weight, layer.bias, shape)
        if self._grids.get(image.name) != layer.input:
            image = self._rounded(image, layer.input, f"{self.here}.input")
        steps = self.graph.constant(f"{self.here}.bias", layer.int32_bias())
        step = self.graph.constant(f"{self.here}.bias_scale", layer.accumulator_scale())
        bias = self.graph.node("DequantizeLinear", [steps, step], f"{self.here}.bias/DequantizeLinear", {"axis": 0})
        x = self._rounded(self._conv(image, weight, bias, shape), layer.output, f"{self.here}.output")
        return self._shuffled(x, shape)

    def _float_conv(self, image: ir.Value, weight: ir.Value, bias: np.ndarray, shape: Conv) -> ir.Value:
        x = self._conv(image, weight, self._number(bias), shape)
        return self._shuffled(self.apply(x, "relu") if shape.relu else x, shape)

    def _conv(self, image: ir.Value, weight: ir.Value, bias: ir.Value, shape: Conv) -> ir.Value:
        attributes: Attributes = {
            "kernel_shape": [shape.kernel] * 2,
            "strides": [shape.stride] * 2,
            "pads": [shape.padding] * 4,
        }
        return self.graph.node("Conv", [image, weight, bias], f"{self.here}/Conv", attributes)

    def _shuffled(self, x: ir.Value, shape: Conv) -> ir.Value:
        return self._node("DepthToSpace", [x], {"blocksize": shape.shuffle, "mode": "CRD"}) if shape.shuffle > 1 else x

    def _integers(self, weight: np.ndarray, scale: np.ndarray, axis: int) -> ir.Value:
        """int8 weights, or those plus 128 as uint8, behind a DequantizeLinear with a scale per output channel."""
        offset = 128 if self.storage == "uint8" else 0
        inputs = [
            self.graph.constant(f"{self.here}.weight", (weight.astype(np.int16) + offset).astype(self.storage)),
            self.graph.constant(f"{self.here}.weight_scale", scale),
            self.graph.constant(f"{self.here}.weight_zero_point", np.full(len(scale), offset, self.storage)),
        ]
        return self.graph.node("DequantizeLinear", inputs, f"{self.here}.weight/DequantizeLinear", {"axis": axis})

    def _rounded(self, x: ir.Value, grid: StaticInput, name: str) -> ir.Value:
        scale = self.graph.constant(f"{name}_scale", np.array(grid.scale, np.float32))
        zero = self.graph.constant(f"{name}_zero_point", np.array(grid.zero_point, np.uint8))
        x = self.graph.node("QuantizeLinear", [x, scale, zero], f"{name}/QuantizeLinear")
        x = self.graph.node("DequantizeLinear", [x, scale, zero], f"{name}/DequantizeLinear")
        self._grids[x.name] = grid
        return x

    def _patches(self, tokens: ir.Value) -> ir.Value:
        ints = self.graph.ints
        return self._node("Slice", [self._wide(tokens), ints(-self.rows * self.columns), ints(2**31 - 1), ints(1)])

    def _wide(self, x: ir.Value) -> ir.Value:
        """In float32."""
        narrow = self.graph.float_type != _FLOAT and not (x.name or "").startswith(("heads.", "norm/Cast", "last_"))
        return self._node("Cast", [x], {"to": _FLOAT}) if narrow else x

    def _number(self, value: np.ndarray | np.generic) -> ir.Value:
        return self.graph.constant(self.name("number"), np.asarray(value, np.float32), dtype=_FLOAT)

    def _node(self, kind: str, inputs: Sequence[ir.Value | None], attributes: Attributes | None = None) -> ir.Value:
        return self.graph.node(kind, inputs, self.name(kind), attributes)
