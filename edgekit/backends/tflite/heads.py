"""The operations of heads as TFLite operators; maps are (B, rows, columns, C), float32 between all layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from typing_extensions import override

from edgekit.backends.tflite.builder import OperatorBuilder, channels_last, conv_options, dequantized
from edgekit.backends.tflite.flatbuffer import Quantization, Value
from edgekit.graph.emitter import Conv, Corners, Emitter, Grid, Tensors
from edgekit.graph.gemms import GemmStrategy
from edgekit.models.config import ViTConfig
from edgekit.plan.heads import HEADS, HeadPlan, LayerPlan
from edgekit.plan.quant import StaticInput


class TfliteHeadEmitter(Emitter[Value]):
    """Operations that only heads have; the backbone's are in `edgekit.backends.tflite.emitter`."""

    def __init__(
        self,
        config: ViTConfig,
        tensors: Tensors,
        gemms: GemmStrategy[Value],
        builder: OperatorBuilder,
        head_plan: HeadPlan | None = None,
    ) -> None:
        """`builder` is the one that `gemms` writes with."""
        super().__init__(config, tensors, gemms, head_plan)
        self.builder, self.graph = builder, builder.graph
        # integers and quantizer of each float tensor that a DEQUANTIZE made, by its index
        self._quantized: dict[int, tuple[Value, StaticInput]] = {}

    def head_output(self, name: str, x: Value, shape: tuple[int, ...]) -> Value:
        """The output of a head as (B, *shape), called `name`; a map of several channels with the channels first."""
        if len(shape) == 3:
            x = self.builder.transpose(f"{HEADS}{name}/channels_first", x, (0, 3, 1, 2))
        return self.builder.reshape(name, x, (-1, *shape))

    @override
    def mean_patch(self, tokens: Value) -> Value:
        axis = self.graph.constant(self.name_of("axis"), np.array([1], np.int32))
        inputs, shape = [self._patches(tokens), axis], (-1, tokens.shape[2])
        return self.builder.op("MEAN", self.name_of("mean"), inputs, shape, options=schema.ReducerOptionsT())

    @override
    def patch_map(self, tokens: Value) -> Value:
        shape = (-1, self.rows, self.columns, tokens.shape[2])
        return self.builder.reshape(self.name_of("map"), self._patches(tokens), shape)

    @override
    def concat(self, values: Sequence[Value]) -> Value:
        if len(values) == 1:
            return values[0]
        options = schema.ConcatenationOptionsT()
        options.axis = len(values[0].shape) - 1
        shape = (*values[0].shape[:-1], sum(value.shape[-1] for value in values))
        return self.builder.op("CONCATENATION", self.name_of("concat"), values, shape, options=options)

    @override
    def resize(self, image: Value, size: Grid, corners: Corners) -> Value:
        options = schema.ResizeBilinearOptionsT()
        options.alignCorners, options.halfPixelCenters = corners == "aligned", corners == "free"
        inputs = [image, self.graph.constant(self.name_of("size"), np.array(size, np.int32))]
        shape = (-1, *size, image.shape[3])
        return self.graph.add("RESIZE_BILINEAR", self.name_of("resize"), inputs, shape, options=options, version=3)

    @override
    def add_channelwise(self, image: Value, vector: Value) -> Value:
        return self.add(image, self.builder.reshape(self.name_of("pixel"), vector, (-1, 1, 1, vector.shape[1])))

    @override
    def add_scalar(self, x: Value, value: float) -> Value:
        return self.add(x, self.builder.scalar(self.name_of("scalar"), value))

    @override
    def divide(self, a: Value, b: Value) -> Value:
        return self.builder.op("DIV", self.name_of("divide"), [a, b], a.shape, options=schema.DivOptionsT())

    @override
    def softmax(self, vector: Value) -> Value:
        return self.builder.softmax(self.name_of("softmax"), vector)

    @override
    def l2_normalize(self, vector: Value) -> Value:
        name, options = self.name_of("l2_normalize"), schema.L2NormOptionsT()
        return self.builder.op("L2_NORMALIZATION", name, [vector], vector.shape, options=options)

    @override
    def float_linear(self, vector: Value, weight: np.ndarray, bias: np.ndarray) -> Value:
        return self._linear(vector, self._number(weight), bias)

    @override
    def integer_linear(self, vector: Value, layer: LayerPlan) -> Value:
        """A float product over dequantized weights."""
        return self._linear(vector, self._dequantized(layer.weight, layer.weight_scale), layer.bias)

    @override
    def float_conv(self, image: Value, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> Value:
        order = _depth_to_space_order(weight, shape)
        return self._float_conv(image, self._number(channels_last(weight[order])), bias[order], shape)

    @override
    def integer_conv(self, image: Value, layer: LayerPlan, shape: Conv) -> Value:
        """QUANTIZE, CONV_2D on int8, DEQUANTIZE; or a float convolution over dequantized weights."""
        order = _depth_to_space_order(layer.weight, shape)
        weight, scale = channels_last(layer.weight[order]), layer.weight_scale[order]
        if layer.input is None or layer.output is None:
            return self._float_conv(image, self._dequantized(weight, scale), layer.bias[order], shape)
        x = self._quantize(image, layer.input)
        bias = self.graph.constant(
            f"{self.here}.bias", layer.int32_bias()[order], Quantization(layer.accumulator_scale()[order])
        )
        stored = self.graph.constant(f"{self.here}.weight_q", weight, Quantization(scale))
        y = self._conv(x, stored, bias, shape, (_int8(layer.input), _int8(layer.output)))
        name, options = f"{self.here}/float", schema.DequantizeOptionsT()
        x = self.graph.add("DEQUANTIZE", name, [y], y.shape, options=options, version=2)
        self._quantized[x.index] = y, layer.output
        return self._shuffled(x, shape)

    def _quantize(self, image: Value, quantizer: StaticInput) -> Value:
        """int8 of a float map; the integers that it was dequantized from, where those have the same quantizer."""
        integers, known = self._quantized.get(image.index, (image, None))
        if known == quantizer:
            return integers
        return self.graph.add(
            "QUANTIZE",
            f"{self.here}.input",
            [image],
            image.shape,
            options=schema.QuantizeOptionsT(),
            dtype=np.int8,
            quantization=_int8(quantizer),
        )

    def _linear(self, vector: Value, weight: Value, bias: np.ndarray) -> Value:
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
        quantization: tuple[Quantization, Quantization] | tuple[None, None] = (None, None),
    ) -> Value:
        """CONV_2D with its ReLU; `quantization` is that of an int8 input and output."""
        of_input, of_output = quantization
        x = self._padded(image, shape.padding, of_input) if shape.padding else image
        rows, columns = ((side - shape.kernel) // shape.stride + 1 for side in x.shape[1:3])
        options = conv_options(shape.stride)
        if shape.relu:
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        return self.graph.add(
            "CONV_2D",
            self.here,
            [x, weight, bias],
            (-1, rows, columns, weight.shape[0]),
            options=options,
            version=3 if of_output else 1,
            dtype=image.dtype.type,
            quantization=of_output,
        )

    def _shuffled(self, x: Value, shape: Conv) -> Value:
        """DEPTH_TO_SPACE: shuffle^2 channels become one of a map that many times larger."""
        if shape.shuffle == 1:
            return x
        _, rows, columns, channels = x.shape
        options = schema.DepthToSpaceOptionsT()
        options.blockSize = shape.shuffle
        larger = (-1, shape.shuffle * rows, shape.shuffle * columns, channels // shape.shuffle**2)
        return self.builder.op("DEPTH_TO_SPACE", self.name_of("shuffle"), [x], larger, options=options)

    def _dequantized(self, weight: np.ndarray, scale: np.ndarray) -> Value:
        """float32 of int8 weights with a scale per output channel."""
        stored = self.graph.constant(f"{self.here}.weight_q", weight, Quantization(scale))
        return dequantized(self.graph, f"{self.here}.weight", stored, version=5)

    def _padded(self, image: Value, padding: int, quantization: Quantization | None) -> Value:
        """Zeros around a map: in an int8 map, its zero point."""
        around = np.array([[0, 0], [padding, padding], [padding, padding], [0, 0]], np.int32)
        rows, columns = (side + 2 * padding for side in image.shape[1:3])
        return self.graph.add(
            "PAD",
            self.name_of("padded"),
            [image, self.graph.constant(self.name_of("paddings"), around)],
            (-1, rows, columns, image.shape[3]),
            version=2 if quantization else 1,
            dtype=image.dtype.type,
            quantization=quantization,
        )

    def _patches(self, tokens: Value) -> Value:
        """Cut out the patch tokens: (B, N, D) -> (B, patches, D)."""
        return self.builder.tokens(self.name_of("patches"), tokens, self.prefix, self.tokens)

    def _number(self, value: np.ndarray) -> Value:
        return self.builder.number(self.name_of("number"), value)


def _depth_to_space_order(weight: np.ndarray, shape: Conv) -> np.ndarray:
    """DEPTH_TO_SPACE's order of the output channels, which is the reverse of torch's pixel shuffle."""
    return np.arange(len(weight)).reshape(-1, shape.shuffle**2).T.ravel()


def _int8(quantizer: StaticInput) -> Quantization:
    """The int8 form of the plan's uint8 quantizer: zero point and integers are 128 lower."""
    return Quantization(np.array([quantizer.scale], np.float32), quantizer.zero_point - 128)
