"""The operations of heads as ONNX nodes, in float32 whatever the backbone's type is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from typing_extensions import override

from edgekit.artifact import OUTPUT_NAMES
from edgekit.backends.onnx.builder import Attributes, GraphBuilder
from edgekit.backends.onnx.weights import Storage
from edgekit.graph.emitter import Conv, Corners, Emitter, Grid, Sides
from edgekit.graph.gemms import GemmStrategy
from edgekit.graph.sizes import Side
from edgekit.models.config import ViTConfig
from edgekit.plan.heads import HEADS, HeadPlan, LayerPlan
from edgekit.plan.quant import StaticInput

_FLOAT = ir.DataType.FLOAT
_STEPS = {"add": "Add", "multiply": "Mul", "divide": "Div"}


class OnnxHeadEmitter(Emitter[ir.Value]):
    """Operations that only heads have; the backbone's are in `edgekit.backends.onnx.emitter`."""

    def __init__(
        self,
        config: ViTConfig,
        tensors: Mapping[str, np.ndarray],
        gemms: GemmStrategy[ir.Value],
        graph: GraphBuilder,
        head_plan: HeadPlan | None = None,
        storage: Storage = "int8",
        sides: Sides | None = None,
    ) -> None:
        """`graph` is the one that `gemms` writes to; `storage` is that of the heads' integer weights."""
        super().__init__(config, tensors, gemms, head_plan, sides)
        self.graph, self.storage = graph, storage
        self.narrow = graph.float_type != _FLOAT
        self.counts: ir.Value  # rows and columns of patches (2,) int64, of images of any size
        self._quantizers: dict[str | None, StaticInput] = {}  # of each value that is fake-quantized, by its name

    @override
    def mean_patch(self, tokens: ir.Value) -> ir.Value:
        return self._node("ReduceMean", [self._patches(tokens), self.graph.ints(1)], "", {"keepdims": 0})

    @override
    def patch_map(self, tokens: ir.Value) -> ir.Value:
        x = self._node("Transpose", [self._patches(tokens)], "", {"perm": [0, 2, 1]})  # (B, D, P)
        return self._node("Reshape", [x, self.shape(0, 0, *self.grid)])

    @override
    def concat(self, values: Sequence[ir.Value]) -> ir.Value:
        return values[0] if len(values) == 1 else self._node("Concat", list(values), "", {"axis": 1})

    @override
    def resize(self, image: ir.Value, size: Grid, corners: Corners) -> ir.Value:
        mode = "align_corners" if corners == "aligned" else "half_pixel"
        # ONNX Runtime's move to channels-last breaks a Resize that names its axes, so it gets all four sizes.
        outer = self._node("Shape", [image], "", {"start": 0, "end": 2})
        sizes = self._node("Concat", [outer, self.shape(*size)], "", {"axis": 0})
        attributes: Attributes = {"mode": "linear", "coordinate_transformation_mode": mode}
        return self._node("Resize", [image, None, None, sizes], "", attributes)

    @override
    def add_channelwise(self, image: ir.Value, vector: ir.Value) -> ir.Value:
        return self._node("Add", [image, self._node("Unsqueeze", [vector, self.graph.ints(2, 3)])])

    @override
    def add_scalar(self, x: ir.Value, value: float) -> ir.Value:
        return self._node("Add", [x, self.number(np.float32(value))])

    @override
    def divide(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._node("Div", [a, b])

    @override
    def softmax(self, vector: ir.Value) -> ir.Value:
        return self._node("Softmax", [vector], "", {"axis": 1})

    @override
    def l2_normalize(self, vector: ir.Value) -> ir.Value:
        length = self._node("ReduceL2", [vector, self.graph.ints(1)], "", {"keepdims": 1})  # (B, 1)
        return self._node("Div", [vector, length])

    @override
    def float_linear(self, vector: ir.Value, weight: np.ndarray, bias: np.ndarray) -> ir.Value:
        return self._node("Gemm", [vector, self.number(weight), self.number(bias)], "", {"transB": 1})

    @override
    def integer_linear(self, vector: ir.Value, layer: LayerPlan) -> ir.Value:
        # A MatMul: ONNX Runtime keeps its dequantized weights as integers, but not those of a Gemm.
        weight = self._integers(layer.weight.T, layer.weight_scale, axis=1)
        product = self.graph.node("MatMul", [vector, weight], f"{self.here}/MatMul")
        return self.graph.node("Add", [product, self.number(layer.bias)], f"{self.here}/Add")

    @override
    def float_conv(self, image: ir.Value, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> ir.Value:
        return self._float_conv(image, self.number(weight), bias, shape)

    @override
    def integer_conv(self, image: ir.Value, layer: LayerPlan, shape: Conv) -> ir.Value:
        """Conv between quantizers, which ONNX Runtime turns into one QLinearConv; or float, its weights dequantized."""
        weight = self._integers(layer.weight, layer.weight_scale, axis=0)
        if layer.input is None or layer.output is None:
            return self._float_conv(image, weight, layer.bias, shape)
        if self._quantizers.get(image.name) != layer.input:
            image = self._fake_quantize(image, layer.input, f"{self.here}.input")
        integers = self.graph.constant(f"{self.here}.bias", layer.int32_bias())
        scale = self.graph.constant(f"{self.here}.bias_scale", layer.accumulator_scale())
        bias = self.graph.node("DequantizeLinear", [integers, scale], f"{self.here}.bias/DequantizeLinear", {"axis": 0})
        x = self._fake_quantize(self._conv(image, weight, bias, shape), layer.output, f"{self.here}.output")
        return self._shuffled(x, shape)

    def _float_conv(self, image: ir.Value, weight: ir.Value, bias: np.ndarray, shape: Conv) -> ir.Value:
        x = self._conv(image, weight, self.number(bias), shape)
        return self._shuffled(self.activate(x, "relu") if shape.relu else x, shape)

    def _conv(self, image: ir.Value, weight: ir.Value, bias: ir.Value, shape: Conv) -> ir.Value:
        attributes: Attributes = {
            "kernel_shape": [shape.kernel] * 2,
            "strides": [shape.stride] * 2,
            "pads": [shape.padding] * 4,
        }
        return self.graph.node("Conv", [image, weight, bias], f"{self.here}/Conv", attributes)

    def _shuffled(self, x: ir.Value, shape: Conv) -> ir.Value:
        return (
            self._node("DepthToSpace", [x], "", {"blocksize": shape.shuffle, "mode": "CRD"}) if shape.shuffle > 1 else x
        )

    def _integers(self, weight: np.ndarray, scale: np.ndarray, axis: int) -> ir.Value:
        """int8 weights, or those plus 128 as uint8, behind a DequantizeLinear with a scale per output channel."""
        offset = 128 if self.storage == "uint8" else 0
        inputs = [
            self.graph.constant(f"{self.here}.weight", (weight.astype(np.int16) + offset).astype(self.storage)),
            self.graph.constant(f"{self.here}.weight_scale", scale),
            self.graph.constant(f"{self.here}.weight_zero_point", np.full(len(scale), offset, self.storage)),
        ]
        return self.graph.node("DequantizeLinear", inputs, f"{self.here}.weight/DequantizeLinear", {"axis": axis})

    def _fake_quantize(self, x: ir.Value, quantizer: StaticInput, name: str) -> ir.Value:
        """x through QuantizeLinear to uint8 and DequantizeLinear."""
        scale = self.graph.constant(f"{name}_scale", np.array(quantizer.scale, np.float32))
        zero_point = self.graph.constant(f"{name}_zero_point", np.array(quantizer.zero_point, np.uint8))
        x = self.graph.node("QuantizeLinear", [x, scale, zero_point], f"{name}/QuantizeLinear")
        x = self.graph.node("DequantizeLinear", [x, scale, zero_point], f"{name}/DequantizeLinear")
        self._quantizers[x.name] = quantizer
        return x

    def _patches(self, tokens: ir.Value) -> ir.Value:
        ints, first = self.graph.ints, self.prefix if self.sides else self.prefix - self.tokens
        return self._node("Slice", [self._head_type(tokens), ints(first), ints(2**31 - 1), ints(1)])

    def _head_type(self, x: ir.Value) -> ir.Value:
        """x in float32 where a head takes it from a float16 backbone."""
        of_a_head = (x.name or "").startswith((HEADS, "norm/Cast", OUTPUT_NAMES[0]))
        return self._node("Cast", [x], "", {"to": _FLOAT}) if self.in_head and self.narrow and not of_a_head else x

    def shape(self, *sides: int) -> ir.Value:
        """A shape (sides,) int64, some of whose sides may be `edgekit.graph.sizes.Side`."""
        if not any(isinstance(side, Side) for side in sides):
            return self.graph.ints(*sides)
        parts = [self._side(side) if isinstance(side, Side) else self.graph.ints(side) for side in sides]
        return self._node("Concat", parts, "", {"axis": 0})

    def _side(self, side: Side) -> ir.Value:
        """The value (1,) int64 of a side that is known at run time only."""
        ints = self.graph.ints
        x = self._node("Gather", [self.counts, ints(("rows", "columns").index(side.axis))], "", {"axis": 0})
        for step, number in side.steps:
            x = self._node(_STEPS[step], [x, ints(number)])
        return x

    def number(self, value: np.ndarray | np.generic, name: str = "") -> ir.Value:
        """A constant: of a head in float32, of the backbone in the graph's float type."""
        if self.in_head:
            return self.graph.constant(name or self.name_of("number"), np.asarray(value, np.float32), dtype=_FLOAT)
        return self.graph.constant(name, np.asarray(value))

    def _node(
        self, kind: str, inputs: Sequence[ir.Value | None], name: str = "", attributes: Attributes | None = None
    ) -> ir.Value:
        return self.graph.node(kind, inputs, f"{name}/{kind}" if name else self.name_of(kind), attributes)
