"""Heads as MIL operations, in the program's number type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from coremltools.converters.mil import Builder as mb

from edgekit.backends.coreml.emitter import mil_name
from edgekit.backends.coreml.gemms import rounded
from edgekit.backends.coreml.norms import SHRINK
from edgekit.graph.heads import Conv, Grid, Head, HeadOps, emit_heads
from edgekit.plan.heads import HeadPlan, LayerPlan
from edgekit.plan.quant import StaticInput

if TYPE_CHECKING:
    from edgekit.backends.coreml.emitter import Var, Writer


def head_outputs(
    writer: Writer, heads: Mapping[str, Head], blocks: Sequence[Var], hidden: Var, plan: HeadPlan | None = None
) -> dict[str, Var]:
    """Write the heads behind a backbone (see `emit_heads`): the output of each, by name, in its final shape."""
    grid = writer.config.grid
    ops = MilOps(writer, plan)
    found = emit_heads(ops, heads, blocks, hidden, writer.tensors, grid)
    return {
        name: mb.reshape(x=x, shape=[1, *heads[name].shape(grid)], name=f"heads_{name}_shaped")
        for name, x in found.items()
    }


class MilOps(HeadOps["Var"]):
    """`edgekit.graph.heads.HeadOps` on variables of a program; the batch is 1."""

    def __init__(self, writer: Writer, plan: HeadPlan | None) -> None:
        super().__init__(plan)
        self.writer = writer
        self.rows, self.columns = writer.config.grid
        self._grids: dict[str, StaticInput] = {}  # of variables that come out of a quantizer, by name

    def name(self, kind: str) -> str:
        """As MIL wants names."""
        return mil_name(super().name(kind).replace("/", "."))

    def norm(self, tokens: Var, weight: np.ndarray, bias: np.ndarray) -> Var:
        """layer_norm, its input shrunk where that of any norm of the backbone is: it is the same residual stream."""
        return self.writer.layer_norm(self.name("norm"), tokens, weight, bias, SHRINK if self.writer.large else 1.0)

    def turn(self, tokens: Var, matrix: np.ndarray) -> Var:
        """linear."""
        return mb.linear(x=tokens, weight=self._number(matrix.T), name=self.name("turn"))

    def cls(self, tokens: Var) -> Var:
        """(1, D)."""
        end = [1, 1, tokens.shape[2]]
        squeeze = [False, True, False]
        return mb.slice_by_index(x=tokens, begin=[0, 0, 0], end=end, squeeze_mask=squeeze, name=self.name("cls"))

    def mean(self, tokens: Var) -> Var:
        """(1, D)."""
        return mb.reduce_mean(x=self._patches(tokens), axes=[1], keep_dims=False, name=self.name("mean"))

    def grid(self, tokens: Var) -> Var:
        """(1, D, rows, columns)."""
        x = mb.transpose(x=self._patches(tokens), perm=[0, 2, 1], name=self.name("transpose"))
        return mb.reshape(x=x, shape=[1, tokens.shape[2], self.rows, self.columns], name=self.name("grid"))

    def join(self, values: Sequence[Var]) -> Var:
        """concat."""
        return values[0] if len(values) == 1 else mb.concat(values=list(values), axis=1, name=self.name("join"))

    def resize(self, image: Var, size: Grid, corners: Literal["aligned", "free"]) -> Var:
        """resize_bilinear."""
        mode = "STRICT_ALIGN_CORNERS" if corners == "aligned" else "UNALIGN_CORNERS"
        return mb.resize_bilinear(
            x=image, target_size_height=size[0], target_size_width=size[1], sampling_mode=mode, name=self.name("resize")
        )

    def plus(self, a: Var, b: Var) -> Var:
        """add."""
        return mb.add(x=a, y=b, name=self.name("plus"))

    def spread(self, image: Var, vector: Var) -> Var:
        """add of a map of one place."""
        return self.plus(image, mb.reshape(x=vector, shape=[1, -1, 1, 1], name=self.name("place")))

    def offset(self, x: Var, value: float) -> Var:
        """add of a constant."""
        return self.plus(x, self.writer.gemms.dtype(value))

    def divide(self, a: Var, b: Var) -> Var:
        """real_div."""
        return mb.real_div(x=a, y=b, name=self.name("divide"))

    def apply(self, x: Var, function: Literal["relu", "gelu", "sigmoid"]) -> Var:
        """relu, gelu or sigmoid."""
        name = self.name(function)
        match function:
            case "relu":
                return mb.relu(x=x, name=name)
            case "gelu":
                return mb.gelu(x=x, mode="EXACT", name=name)
            case "sigmoid":
                return mb.sigmoid(x=x, name=name)

    def softmax(self, vector: Var) -> Var:
        """softmax."""
        return mb.softmax(x=vector, axis=1, name=self.name("softmax"))

    def unit(self, vector: Var) -> Var:
        """Divided by its peak, whose square float16 might not hold, and then by its length."""
        size = mb.abs(x=vector, name=self.name("size"))
        peak = mb.reduce_max(x=size, axes=[1], keep_dims=True, name=self.name("peak"))
        x = self.divide(vector, peak)
        length = mb.reduce_l2_norm(x=x, axes=[1], keep_dims=True, name=self.name("length"))
        return self.divide(x, length)

    def float_linear(self, vector: Var, weight: np.ndarray, bias: np.ndarray) -> Var:
        """linear."""
        return self._linear(vector, self._number(weight), bias)

    def integer_linear(self, vector: Var, layer: LayerPlan) -> Var:
        """linear over integers that the runtime widens."""
        return self._linear(vector, self._integers(layer), layer.bias)

    def float_conv(self, image: Var, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> Var:
        """conv, relu and pixel_shuffle."""
        return self._float_conv(image, self._number(weight), bias, shape)

    def integer_conv(self, image: Var, layer: LayerPlan, shape: Conv) -> Var:
        """conv between two pairs of `quantize` and `dequantize`, or over float maps."""
        weight = self._integers(layer)
        if layer.input is None or layer.output is None:
            return self._float_conv(image, weight, layer.bias, shape)
        own = mil_name(self.here)
        if self._grids.get(image.name) != layer.input:
            image = rounded(own, image, layer.input)
        x = rounded(f"{own}_behind", self._conv(image, weight, layer.bias, shape), layer.output)
        self._grids[x.name] = layer.output
        return self._shuffled(x, shape)

    def _linear(self, vector: Var, weight: Any, bias: np.ndarray) -> Var:
        return mb.linear(x=vector, weight=weight, bias=self._number(bias), name=mil_name(self.here))

    def _float_conv(self, image: Var, weight: Any, bias: np.ndarray, shape: Conv) -> Var:
        x = self._conv(image, weight, bias, shape)
        return self._shuffled(self.apply(x, "relu") if shape.relu else x, shape)

    def _conv(self, image: Var, weight: Any, bias: np.ndarray, shape: Conv) -> Var:
        pad: dict[str, Any] = {"pad_type": "custom", "pad": [shape.padding] * 4}
        if not shape.padding:
            pad = {"pad_type": "valid"}
        return mb.conv(
            x=image, weight=weight, bias=self._number(bias), strides=[shape.stride] * 2, name=mil_name(self.here), **pad
        )

    def _shuffled(self, x: Var, shape: Conv) -> Var:
        if shape.shuffle == 1:
            return x
        return mb.pixel_shuffle(x=x, upscale_factor=shape.shuffle, name=self.name("shuffle"))

    def _integers(self, layer: LayerPlan) -> Any:
        """The plan's integers with a float16 scale per output channel."""
        own = f"{mil_name(self.here)}_weight"
        scale = self._number(layer.weight_scale)
        if self.writer.target == "iOS18":
            spread = scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
            return mb.constexpr_blockwise_shift_scale(data=layer.weight, scale=spread, name=own)
        return mb.constexpr_affine_dequantize(
            quantized_data=layer.weight, zero_point=np.int8(0), scale=scale, axis=np.int32(0), name=own
        )

    def _patches(self, tokens: Var) -> Var:
        count, width = tokens.shape[1:]
        first = count - self.rows * self.columns
        return mb.slice_by_index(x=tokens, begin=[0, first, 0], end=[1, count, width], name=self.name("patches"))

    def _number(self, value: np.ndarray) -> np.ndarray:
        return self.writer.number(value)
