"""The operations of heads in MIL, in the program's number type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from typing_extensions import override

from edgekit.backends.coreml.builder import ProgramOptions, Var, fake_quantize, mil_name
from edgekit.graph.emitter import Conv, Corners, Emitter, Grid, Tensors
from edgekit.graph.gemms import GemmStrategy
from edgekit.models.config import ViTConfig
from edgekit.plan.heads import HeadPlan, LayerPlan
from edgekit.plan.quant import StaticInput


class CoreMlHeadEmitter(Emitter[Var]):
    """Operations that only heads have, for one image; the backbone's are in `edgekit.backends.coreml.emitter`."""

    def __init__(
        self,
        config: ViTConfig,
        tensors: Tensors,
        gemms: GemmStrategy[Var],
        options: ProgramOptions,
        large: frozenset[str] = frozenset(),
        head_plan: HeadPlan | None = None,
    ) -> None:
        """As every emitter.

        Args:
            config: of the baked model.
            tensors: its float tensors.
            gemms: with the same `options`.
            options: number type, target and batch of the program.
            large: the norms that get their input shrunk by a power of two; see `large_norms`.
            head_plan: integers of the heads; None writes them in float.
        """
        super().__init__(config, tensors, gemms, head_plan)
        self.options, self.large = options, large
        self._quantizers: dict[str, StaticInput] = {}  # of each variable that is fake-quantized, by its name

    @override
    def name_of(self, kind: str) -> str:
        return mil_name(super().name_of(kind))

    @override
    def mean_patch(self, tokens: Var) -> Var:
        return mb.reduce_mean(x=self._patches(tokens), axes=[1], keep_dims=False, name=self.name_of("mean"))

    @override
    def patch_map(self, tokens: Var) -> Var:
        x = mb.transpose(x=self._patches(tokens), perm=[0, 2, 1], name=self.name_of("transpose"))  # (1, D, P)
        return mb.reshape(x=x, shape=[1, self.config.width, self.rows, self.columns], name=self.name_of("reshape"))

    @override
    def concat(self, values: Sequence[Var]) -> Var:
        return values[0] if len(values) == 1 else mb.concat(values=list(values), axis=1, name=self.name_of("concat"))

    @override
    def resize(self, image: Var, size: Grid, corners: Corners) -> Var:
        return mb.resize_bilinear(
            x=image,
            target_size_height=size[0],
            target_size_width=size[1],
            sampling_mode="STRICT_ALIGN_CORNERS" if corners == "aligned" else "UNALIGN_CORNERS",
            name=self.name_of("resize"),
        )

    @override
    def add_channelwise(self, image: Var, vector: Var) -> Var:
        return self.add(image, mb.reshape(x=vector, shape=[1, -1, 1, 1], name=self.name_of("place")))

    @override
    def add_scalar(self, x: Var, value: float) -> Var:
        return self.add(x, self.options.dtype(value))

    @override
    def divide(self, a: Var, b: Var) -> Var:
        return mb.real_div(x=a, y=b, name=self.name_of("divide"))

    @override
    def softmax(self, vector: Var) -> Var:
        return mb.softmax(x=vector, axis=1, name=self.name_of("softmax"))

    @override
    def l2_normalize(self, vector: Var) -> Var:
        # Divided by its abs-max first: the square of that might be more than float16 holds.
        magnitudes = mb.abs(x=vector, name=self.name_of("abs"))
        peak = mb.reduce_max(x=magnitudes, axes=[1], keep_dims=True, name=self.name_of("peak"))  # (1, 1)
        x = self.divide(vector, peak)
        length = mb.reduce_l2_norm(x=x, axes=[1], keep_dims=True, name=self.name_of("length"))  # (1, 1)
        return self.divide(x, length)

    @override
    def float_linear(self, vector: Var, weight: np.ndarray, bias: np.ndarray) -> Var:
        return self._linear(vector, self.options.number(weight), bias)

    @override
    def integer_linear(self, vector: Var, layer: LayerPlan) -> Var:
        return self._linear(vector, self._integers(layer), layer.bias)

    @override
    def float_conv(self, image: Var, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> Var:
        return self._float_conv(image, self.options.number(weight), bias, shape)

    @override
    def integer_conv(self, image: Var, layer: LayerPlan, shape: Conv) -> Var:
        weight = self._integers(layer)
        if layer.input is None or layer.output is None:
            return self._float_conv(image, weight, layer.bias, shape)
        name = mil_name(self.here)
        if self._quantizers.get(image.name) != layer.input:
            image = fake_quantize(f"{name}_input", image, layer.input)
        x = fake_quantize(f"{name}_output", self._conv(image, weight, layer.bias, shape), layer.output)
        self._quantizers[x.name] = layer.output
        return self._shuffled(x, shape)

    def _linear(self, vector: Var, weight: Any, bias: np.ndarray) -> Var:
        return mb.linear(x=vector, weight=weight, bias=self.options.number(bias), name=mil_name(self.here))

    def _float_conv(self, image: Var, weight: Any, bias: np.ndarray, shape: Conv) -> Var:
        x = self._conv(image, weight, bias, shape)
        return self._shuffled(self.activate(x, "relu") if shape.relu else x, shape)

    def _conv(self, image: Var, weight: Any, bias: np.ndarray, shape: Conv) -> Var:
        padded: dict[str, Any] = {"pad_type": "custom", "pad": [shape.padding] * 4}
        return mb.conv(
            x=image,
            weight=weight,
            bias=self.options.number(bias),
            strides=[shape.stride] * 2,
            name=mil_name(self.here),
            **(padded if shape.padding else {"pad_type": "valid"}),
        )

    def _shuffled(self, x: Var, shape: Conv) -> Var:
        if shape.shuffle == 1:
            return x
        return mb.pixel_shuffle(x=x, upscale_factor=shape.shuffle, name=self.name_of("shuffle"))

    def _integers(self, layer: LayerPlan) -> Any:
        """The plan's integers with a scale per output channel."""
        name = f"{mil_name(self.here)}_weight"
        scale = self.options.number(layer.weight_scale)
        if self.options.target == "iOS18":
            scale = scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
            return mb.constexpr_blockwise_shift_scale(data=layer.weight, scale=scale, name=name)
        return mb.constexpr_affine_dequantize(
            quantized_data=layer.weight, zero_point=np.int8(0), scale=scale, axis=np.int32(0), name=name
        )

    def _patches(self, tokens: Var) -> Var:
        """Cut out the patch tokens: (1, N, D) -> (1, P, D)."""
        end = [1, self.tokens, self.config.width]
        return mb.slice_by_index(x=tokens, begin=[0, self.prefix, 0], end=end, name=self.name_of("patches"))
