"""The operations of heads as OpenVINO nodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as op
from typing_extensions import override

from edgekit.backends.openvino.builder import QUANTIZER, constant, dequantized, fake_quantize, ints
from edgekit.graph.emitter import Conv, Corners, Emitter, Grid, Sides, Tensors
from edgekit.graph.gemms import GemmStrategy
from edgekit.graph.sizes import Side
from edgekit.models.config import ViTConfig
from edgekit.plan.heads import HeadPlan, LayerPlan
from edgekit.plan.quant import StaticInput


class OpenVinoHeadEmitter(Emitter[ov.Output]):
    """Operations that only heads have; the backbone's are in `edgekit.backends.openvino.emitter`."""

    def __init__(
        self,
        config: ViTConfig,
        tensors: Tensors,
        gemms: GemmStrategy[ov.Output],
        head_plan: HeadPlan | None = None,
        sides: Sides | None = None,
    ) -> None:
        super().__init__(config, tensors, gemms, head_plan, sides)
        self.counts: tuple[ov.Output, ov.Output]  # rows and columns of patches, (1,) int64, of images of any size
        self._quantizers: dict[str, StaticInput] = {}  # of each FakeQuantize in heads, by its name

    @override
    def mean_patch(self, tokens: ov.Output) -> ov.Output:
        return op.reduce_mean(self._patches(tokens), self.ints([1]), False, name=self.name_of("mean")).output(
            0
        )  # (B, D)

    @override
    def patch_map(self, tokens: ov.Output) -> ov.Output:
        x = op.transpose(self._patches(tokens), self.ints([0, 2, 1]), name=self.name_of("transpose"))  # (B, D, P)
        shape = self.shape(0, 0, *self.grid)
        return op.reshape(x, shape, True, name=self.name_of("reshape")).output(0)

    @override
    def concat(self, values: Sequence[ov.Output]) -> ov.Output:
        return op.concat(list(values), 1, name=self.name_of("concat")).output(0)

    @override
    def resize(self, image: ov.Output, size: Grid, corners: Corners) -> ov.Output:
        mode = "align_corners" if corners == "aligned" else "half_pixel"
        return op.interpolate(
            image,
            self.shape(*size),
            "linear_onnx",
            "sizes",
            axes=self.ints([2, 3]),
            coordinate_transformation_mode=mode,
            name=self.name_of("resize"),
        ).output(0)

    @override
    def add_channelwise(self, image: ov.Output, vector: ov.Output) -> ov.Output:
        place = op.reshape(vector, self.ints([0, -1, 1, 1]), True, name=self.name_of("place"))  # (B, C, 1, 1)
        return self.add(image, place.output(0))

    @override
    def add_scalar(self, x: ov.Output, value: float) -> ov.Output:
        return self.add(x, self.number(np.float32(value)))

    @override
    def divide(self, a: ov.Output, b: ov.Output) -> ov.Output:
        return op.divide(a, b, name=self.name_of("divide")).output(0)

    @override
    def softmax(self, vector: ov.Output) -> ov.Output:
        return op.softmax(vector, 1, name=self.name_of("softmax")).output(0)

    @override
    def l2_normalize(self, vector: ov.Output) -> ov.Output:
        length = op.reduce_l2(vector, self.ints([1]), True, name=self.name_of("length")).output(0)  # (B, 1)
        return self.divide(vector, length)

    @override
    def float_linear(self, vector: ov.Output, weight: np.ndarray, bias: np.ndarray) -> ov.Output:
        return self._linear(vector, self.number(weight), bias)

    @override
    def integer_linear(self, vector: ov.Output, layer: LayerPlan) -> ov.Output:
        return self._linear(vector, self._integers(layer), layer.bias)

    @override
    def float_conv(self, image: ov.Output, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> ov.Output:
        x = self._conv(image, self.number(weight), bias, shape)
        return self._shuffled(self.activate(x, "relu") if shape.relu else x, shape)

    @override
    def integer_conv(self, image: ov.Output, layer: LayerPlan, shape: Conv) -> ov.Output:
        weight = self._integers(layer)
        if layer.input is not None and self._quantizers.get(image.get_node().get_friendly_name()) != layer.input:
            image = self._quantize(image, layer.input, f"{self.here}{QUANTIZER}")
        x = self._conv(image, weight, layer.bias, shape)
        if layer.output is not None:
            return self._shuffled(self._quantize(x, layer.output, f"{self.here}.output{QUANTIZER}"), shape)
        return self._shuffled(self.activate(x, "relu") if shape.relu else x, shape)

    def _linear(self, vector: ov.Output, weight: ov.Output, bias: np.ndarray) -> ov.Output:
        x = op.matmul(vector, weight, False, True, name=self.here)
        return op.add(x, self.number(bias.reshape(1, -1)), name=f"{self.here}/bias").output(0)

    def _conv(self, image: ov.Output, weight: ov.Output, bias: np.ndarray, shape: Conv) -> ov.Output:
        pads = [shape.padding] * 2
        x = op.convolution(image, weight, [shape.stride] * 2, pads, pads, [1, 1], name=self.here)
        return op.add(x, self.number(bias.reshape(1, -1, 1, 1)), name=f"{self.here}/bias").output(0)

    def _shuffled(self, x: ov.Output, shape: Conv) -> ov.Output:
        if shape.shuffle == 1:
            return x
        return op.depth_to_space(x, "depth_first", shape.shuffle, name=self.name_of("shuffle")).output(0)

    def _integers(self, layer: LayerPlan) -> ov.Output:
        scale = layer.weight_scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
        return dequantized(layer.weight, self.number(scale), f"{self.here}.weight")

    def _quantize(self, x: ov.Output, quantizer: StaticInput, name: str) -> ov.Output:
        self._quantizers[name] = quantizer
        return fake_quantize(x, quantizer, name, (self.name_of("number"), self.name_of("number")))

    def _patches(self, tokens: ov.Output) -> ov.Output:
        """Cut out the patch tokens: (B, N, D) -> (B, P, D)."""
        end = 2**31 - 1 if self.sides else self.tokens
        start, stop, step, axis = (self.ints([value]) for value in (self.prefix, end, 1, 1))
        return op.slice(tokens, start, stop, step, axis, name=self.name_of("slice")).output(0)

    def shape(self, *sides: int) -> ov.Output:
        """A shape (sides,) int64, some of whose sides may be `edgekit.graph.sizes.Side`."""
        if not any(isinstance(side, Side) for side in sides):
            return self.ints(list(sides))
        parts = [self._side(side) if isinstance(side, Side) else self.ints([side]) for side in sides]
        return op.concat(parts, 0, name=self.name_of("shape")).output(0)

    def _side(self, side: Side) -> ov.Output:
        """The value (1,) int64 of a side that is known at run time only."""
        x = self.counts[("rows", "columns").index(side.axis)]
        for step, number in side.steps:
            x = getattr(op, step)(x, self.ints([number]), name=self.name_of(step)).output(0)
        return x

    def ints(self, value: int | list[int], name: str = "") -> ov.Output:
        """An int64 constant, of a head where it has no name."""
        return ints(value, name or self.name_of("index"))

    def number(self, value: np.ndarray | np.generic, name: str = "") -> ov.Output:
        """A float32 constant, of a head where it has no name."""
        return constant(np.asarray(value, np.float32), name or self.name_of("number"))
