"""Heads as TFLite operators, in float32; maps are (B, rows, columns, C) here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.backends.tflite.flatbuffer import Quantization, Value
from edgekit.backends.tflite.gemms import channels_last, widened
from edgekit.graph.heads import Conv, Grid, Head, HeadOps, emit_heads
from edgekit.plan.heads import HeadPlan, LayerPlan
from edgekit.plan.quant import StaticInput

if TYPE_CHECKING:
    from edgekit.backends.tflite.emitter import Writer

_VALID = schema.Padding.VALID
_FUNCTIONS = {"relu": ("RELU", None), "gelu": ("GELU", schema.GeluOptionsT), "sigmoid": ("LOGISTIC", None)}


def head_outputs(
    writer: Writer, heads: Mapping[str, Head], blocks: Sequence[Value], hidden: Value, plan: HeadPlan | None = None
) -> dict[str, Value]:
    """Write the heads behind a backbone (see `emit_heads`): the output of each, by name."""
    grid = writer.config.grid
    ops = TfliteOps(writer, plan)
    found = emit_heads(ops, heads, blocks, hidden, writer.tensors, grid)
    return {name: ops.shaped(name, x, heads[name].shape(grid)) for name, x in found.items()}


class TfliteOps(HeadOps[Value]):
    """`edgekit.graph.heads.HeadOps` on values of a graph in the making."""

    def __init__(self, writer: Writer, plan: HeadPlan | None) -> None:
        super().__init__(plan)
        self.writer, self.graph = writer, writer.graph
        self.rows, self.columns = writer.config.grid
        self._rounded: dict[int, tuple[Value, StaticInput]] = {}  # float tensor -> the integers it was widened from

    def norm(self, tokens: Value, weight: np.ndarray, bias: np.ndarray) -> Value:
        """LayerNorm, of the operators that the backbone's are made of."""
        return self.writer.layer_norm(self.name("norm"), tokens, weight, bias)

    def turn(self, tokens: Value, matrix: np.ndarray) -> Value:
        """FULLY_CONNECTED."""
        return self.writer.product(self.name("turn"), tokens, self._number(matrix.T))

    def cls(self, tokens: Value) -> Value:
        """(B, D)."""
        x = self.graph.tokens(self.name("cls"), tokens, 0, 1)
        return self.writer.reshape(self.name("reshape"), x, (-1, tokens.shape[2]))

    def mean(self, tokens: Value) -> Value:
        """(B, D)."""
        axis = self.graph.constant(self.name("axis"), np.array([1], np.int32))
        shape = (-1, tokens.shape[2])
        options = schema.ReducerOptionsT()
        return self.graph.add("MEAN", self.name("mean"), [self._patches(tokens), axis], shape, options=options)

    def grid(self, tokens: Value) -> Value:
        """(B, rows, columns, D)."""
        shape = (-1, self.rows, self.columns, tokens.shape[2])
        return self.writer.reshape(self.name("grid"), self._patches(tokens), shape)

    def join(self, values: Sequence[Value]) -> Value:
        """CONCATENATION."""
        if len(values) == 1:
            return values[0]
        options = schema.ConcatenationOptionsT()
        options.axis = len(values[0].shape) - 1
        shape = (*values[0].shape[:-1], sum(value.shape[-1] for value in values))
        return self.graph.add("CONCATENATION", self.name("join"), values, shape, options=options)

    def resize(self, image: Value, size: Grid, corners: Literal["aligned", "free"]) -> Value:
        """RESIZE_BILINEAR."""
        options = schema.ResizeBilinearOptionsT()
        options.alignCorners, options.halfPixelCenters = corners == "aligned", corners == "free"
        inputs = [image, self.graph.constant(self.name("size"), np.array(size, np.int32))]
        shape = (-1, *size, image.shape[3])
        return self.graph.add("RESIZE_BILINEAR", self.name("resize"), inputs, shape, options=options, version=3)

    def plus(self, a: Value, b: Value) -> Value:
        """ADD."""
        return self.writer.plus(self.name("plus"), a, b)

    def spread(self, image: Value, vector: Value) -> Value:
        """ADD of a map of one place."""
        return self.plus(image, self.writer.reshape(self.name("place"), vector, (-1, 1, 1, vector.shape[1])))

    def offset(self, x: Value, value: float) -> Value:
        """ADD of a constant."""
        return self.plus(x, self.writer.scalar(self.name("offset"), value))

    def divide(self, a: Value, b: Value) -> Value:
        """DIV."""
        return self.graph.add("DIV", self.name("divide"), [a, b], a.shape, options=schema.DivOptionsT())

    def apply(self, x: Value, function: Literal["relu", "gelu", "sigmoid"]) -> Value:
        """RELU, GELU or LOGISTIC."""
        operator, options = _FUNCTIONS[function]
        return self.graph.add(operator, self.name(function), [x], x.shape, options=options() if options else None)

    def softmax(self, vector: Value) -> Value:
        """SOFTMAX."""
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self.graph.add("SOFTMAX", self.name("softmax"), [vector], vector.shape, options=options)

    def unit(self, vector: Value) -> Value:
        """L2_NORMALIZATION."""
        options = schema.L2NormOptionsT()
        return self.graph.add("L2_NORMALIZATION", self.name("unit"), [vector], vector.shape, options=options)

    def float_linear(self, vector: Value, weight: np.ndarray, bias: np.ndarray) -> Value:
        """FULLY_CONNECTED."""
        return self._product(vector, self._number(weight), bias)

    def integer_linear(self, vector: Value, layer: LayerPlan) -> Value:
        """FULLY_CONNECTED over widened integers."""
        return self._product(vector, self._widened(layer.weight, layer.weight_scale), layer.bias)

    def float_conv(self, image: Value, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> Value:
        """CONV_2D and DEPTH_TO_SPACE."""
        order = _order(weight, shape)
        return self._float_conv(image, self._number(channels_last(weight[order])), bias[order], shape)

    def integer_conv(self, image: Value, layer: LayerPlan, shape: Conv) -> Value:
        """QUANTIZE, CONV_2D on int8, DEQUANTIZE; or a float one over widened integers."""
        order = _order(layer.weight, shape)
        weight, scale, bias = channels_last(layer.weight[order]), layer.weight_scale[order], layer.bias[order]
        if layer.input is None or layer.output is None:
            return self._float_conv(image, self._widened(weight, scale), bias, shape)
        x, grid = self._rounded.get(image.index, (image, None))
        if grid != layer.input:
            options = schema.QuantizeOptionsT()
            x = self.graph.add(
                "QUANTIZE",
                f"{self.here}.input",
                [image],
                image.shape,
                options=options,
                dtype=np.int8,
                quantization=_int8(layer.input),
            )
        steps = self.graph.constant(
            f"{self.here}.bias", layer.int32_bias()[order], Quantization(layer.accumulator_scale()[order])
        )
        stored = self.graph.constant(f"{self.here}.weight_q", weight, Quantization(scale))
        sums = self._conv(x, stored, steps, shape, _int8(layer.input), _int8(layer.output))
        x = self.graph.add(
            "DEQUANTIZE", f"{self.here}/float", [sums], sums.shape, options=schema.DequantizeOptionsT(), version=2
        )
        self._rounded[x.index] = sums, layer.output
        return self._shuffled(x, shape)

    def _product(self, vector: Value, weight: Value, bias: np.ndarray) -> Value:
        inputs, options = [vector, weight, self._number(bias)], schema.FullyConnectedOptionsT()
        return self.graph.add("FULLY_CONNECTED", self.here, inputs, (-1, weight.shape[0]), options=options)

    def _float_conv(self, image: Value, weight: Value, bias: np.ndarray, shape: Conv) -> Value:
        return self._shuffled(self._conv(image, weight, self._number(bias), shape), shape)

    def _conv(
        self,
        image: Value,
        weight: Value,
        bias: Value,
        shape: Conv,
        entering: Quantization | None = None,
        leaving: Quantization | None = None,
    ) -> Value:
        """CONV_2D, its ReLU within; `entering` and `leaving` are the grids of int8 maps."""
        x = self._padded(image, shape.padding, entering) if shape.padding else image
        rows, columns = ((side - shape.kernel) // shape.stride + 1 for side in x.shape[1:3])
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = _VALID, shape.stride, shape.stride
        options.dilationHFactor = options.dilationWFactor = 1
        if shape.relu:
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        return self.graph.add(
            "CONV_2D",
            self.here,
            [x, weight, bias],
            (-1, rows, columns, weight.shape[0]),
            options=options,
            version=3 if leaving else 1,
            dtype=image.dtype.type,
            quantization=leaving,
        )

    def _shuffled(self, x: Value, shape: Conv) -> Value:
        """DEPTH_TO_SPACE."""
        if shape.shuffle == 1:
            return x
        _, rows, columns, channels = x.shape
        options = schema.DepthToSpaceOptionsT()
        options.blockSize = shape.shuffle
        larger = (-1, shape.shuffle * rows, shape.shuffle * columns, channels // shape.shuffle**2)
        return self.graph.add("DEPTH_TO_SPACE", self.name("shuffle"), [x], larger, options=options)

    def _widened(self, weight: np.ndarray, scale: np.ndarray) -> Value:
        """int8 constant with a scale per output channel -> DEQUANTIZE."""
        stored = self.graph.constant(f"{self.here}.weight_q", weight, Quantization(scale))
        return widened(self.graph, f"{self.here}.weight", stored, version=5)

    def shaped(self, name: str, x: Value, shape: tuple[int, ...]) -> Value:
        """The head's output as (B, *shape), called `name`; maps of several channels with the channels first."""
        self.begin(name)
        if len(shape) == 3:
            x = self.writer.transpose(f"{self._head}/channels_first", x, (0, 3, 1, 2))
        return self.writer.reshape(name, x, (-1, *shape))

    def _padded(self, image: Value, padding: int, grid: Quantization | None) -> Value:
        """Zeros around a map; integers of a grid have theirs at its zero point."""
        around = np.array([[0, 0], [padding, padding], [padding, padding], [0, 0]], np.int32)
        rows, columns = (side + 2 * padding for side in image.shape[1:3])
        inputs = [image, self.graph.constant(self.name("paddings"), around)]
        shape = (-1, rows, columns, image.shape[3])
        return self.graph.add(
            "PAD",
            self.name("padded"),
            inputs,
            shape,
            version=2 if grid else 1,
            dtype=image.dtype.type,
            quantization=grid,
        )

    def _patches(self, tokens: Value) -> Value:
        count = self.writer.tokens
        return self.graph.tokens(self.name("patches"), tokens, count - self.rows * self.columns, count)

    def _number(self, value: np.ndarray) -> Value:
        return self.graph.constant(self.name("number"), np.asarray(value, np.float32, order="C"))


def _order(weight: np.ndarray, shape: Conv) -> np.ndarray:
    """DEPTH_TO_SPACE's order of the output channels, which is the reverse of torch's."""
    return np.arange(len(weight)).reshape(-1, shape.shuffle**2).T.ravel()


def _int8(grid: StaticInput) -> Quantization:
    """The plan's uint8 grid, whose integers are 128 lower here."""
    return Quantization(np.array([grid.scale], np.float32), grid.zero_point - 128)
