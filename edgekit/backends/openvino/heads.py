"""Heads as OpenVINO operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import openvino as ov
from openvino import opset13 as op

from edgekit.backends.openvino.gemms import LEVELS, QUANTIZER
from edgekit.graph.heads import Conv, Grid, Head, HeadOps, emit_heads
from edgekit.models.config import DinoV2Config
from edgekit.plan.heads import HeadPlan, LayerPlan
from edgekit.plan.quant import StaticInput

_EPSILON = 1e-6  # of LayerNorm


def head_outputs(
    heads: Mapping[str, Head],
    blocks: Sequence[ov.Output],
    hidden: ov.Output,
    tensors: Mapping[str, np.ndarray],
    config: DinoV2Config,
    plan: HeadPlan | None = None,
) -> dict[str, ov.Output]:
    """Write the heads behind a backbone (see `emit_heads`): the output of each, by name."""
    grid = config.grid
    ops = OpenVinoOps(grid, config.tokens(*(side * config.patch for side in grid)), plan)
    found = emit_heads(ops, heads, blocks, hidden, tensors, grid)
    return {name: ops.shaped(name, x, heads[name].shape(grid)) for name, x in found.items()}


class OpenVinoOps(HeadOps[ov.Output]):
    """`edgekit.graph.heads.HeadOps` on node outputs; every node is named, so that the bytes are ours."""

    def __init__(self, grid: Grid, tokens: int, plan: HeadPlan | None) -> None:
        super().__init__(plan)
        self.rows, self.columns = grid
        self._first, self._tokens = tokens - grid[0] * grid[1], tokens
        self._grids: dict[str, StaticInput] = {}  # of nodes that are quantizers, by name

    def norm(self, tokens: ov.Output, weight: np.ndarray, bias: np.ndarray) -> ov.Output:
        """MVN, scaled and shifted."""
        x = op.mvn(tokens, self._index([-1]), True, _EPSILON, "inside_sqrt", name=self.name("mvn"))
        x = op.multiply(x, self._number(weight.reshape(1, 1, -1)), name=self.name("multiply"))
        return op.add(x, self._number(bias.reshape(1, 1, -1)), name=self.name("add")).output(0)

    def turn(self, tokens: ov.Output, matrix: np.ndarray) -> ov.Output:
        """MatMul."""
        return op.matmul(tokens, self._number(matrix), False, False, name=self.name("matmul")).output(0)

    def cls(self, tokens: ov.Output) -> ov.Output:
        """(B, D)."""
        return op.gather(tokens, self._index(0), self._index(1), name=self.name("gather")).output(0)

    def mean(self, tokens: ov.Output) -> ov.Output:
        """(B, D)."""
        return op.reduce_mean(self._patches(tokens), self._index([1]), False, name=self.name("mean")).output(0)

    def grid(self, tokens: ov.Output) -> ov.Output:
        """(B, D, rows, columns)."""
        x = op.transpose(self._patches(tokens), self._index([0, 2, 1]), name=self.name("transpose"))
        shape = self._index([0, 0, self.rows, self.columns])
        return op.reshape(x, shape, True, name=self.name("reshape")).output(0)

    def join(self, values: Sequence[ov.Output]) -> ov.Output:
        """Concat."""
        return op.concat(list(values), 1, name=self.name("concat")).output(0)

    def resize(self, image: ov.Output, size: Grid, corners: Literal["aligned", "free"]) -> ov.Output:
        """Interpolate over the last two axes."""
        mode = "align_corners" if corners == "aligned" else "half_pixel"
        return op.interpolate(
            image,
            self._index(list(size)),
            "linear_onnx",
            "sizes",
            axes=self._index([2, 3]),
            coordinate_transformation_mode=mode,
            name=self.name("resize"),
        ).output(0)

    def plus(self, a: ov.Output, b: ov.Output) -> ov.Output:
        """Add."""
        return op.add(a, b, name=self.name("add")).output(0)

    def spread(self, image: ov.Output, vector: ov.Output) -> ov.Output:
        """Add of a map of one place."""
        place = op.reshape(vector, self._index([0, -1, 1, 1]), True, name=self.name("place"))
        return self.plus(image, place.output(0))

    def offset(self, x: ov.Output, value: float) -> ov.Output:
        """Add."""
        return self.plus(x, self._number(np.float32(value)))

    def divide(self, a: ov.Output, b: ov.Output) -> ov.Output:
        """Divide."""
        return op.divide(a, b, name=self.name("divide")).output(0)

    def apply(self, x: ov.Output, function: Literal["relu", "gelu", "sigmoid"]) -> ov.Output:
        """ReLU, Gelu or Sigmoid."""
        name = self.name(function)
        match function:
            case "relu":
                return op.relu(x, name=name).output(0)
            case "gelu":
                return op.gelu(x, "erf", name=name).output(0)
            case "sigmoid":
                return op.sigmoid(x, name=name).output(0)

    def softmax(self, vector: ov.Output) -> ov.Output:
        """Softmax."""
        return op.softmax(vector, 1, name=self.name("softmax")).output(0)

    def unit(self, vector: ov.Output) -> ov.Output:
        """Divided by its length."""
        return self.divide(vector, op.reduce_l2(vector, self._index([1]), True, name=self.name("length")).output(0))

    def shaped(self, name: str, x: ov.Output, shape: tuple[int, ...]) -> ov.Output:
        """The head's output as (B, *shape)."""
        self.begin(name)
        index = op.constant(np.array([-1, *shape], np.int64), name=f"{self._head}/shape")
        return op.reshape(x, index, False, name=self._head).output(0)

    def float_linear(self, vector: ov.Output, weight: np.ndarray, bias: np.ndarray) -> ov.Output:
        """MatMul and Add."""
        return self._product(vector, self._number(weight), bias)

    def integer_linear(self, vector: ov.Output, layer: LayerPlan) -> ov.Output:
        """MatMul over widened integers, and Add."""
        return self._product(vector, self._integers(layer), layer.bias)

    def float_conv(self, image: ov.Output, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> ov.Output:
        """Convolution, Add, ReLU and DepthToSpace."""
        x = self._conv(image, self._number(weight), bias, shape)
        return self._shuffled(self.apply(x, "relu") if shape.relu else x, shape)

    def integer_conv(self, image: ov.Output, layer: LayerPlan, shape: Conv) -> ov.Output:
        """Convolution of widened integers between two FakeQuantize, or of float maps."""
        weight = self._integers(layer)
        if layer.input is not None and self._grids.get(image.get_node().get_friendly_name()) != layer.input:
            image = self._rounded(image, layer.input, f"{self.here}{QUANTIZER}")
        x = self._conv(image, weight, layer.bias, shape)
        if layer.output is not None:
            return self._shuffled(self._rounded(x, layer.output, f"{self.here}.output{QUANTIZER}"), shape)
        return self._shuffled(self.apply(x, "relu") if shape.relu else x, shape)

    def _product(self, vector: ov.Output, weight: ov.Output, bias: np.ndarray) -> ov.Output:
        x = op.matmul(vector, weight, False, True, name=self.here)
        return op.add(x, self._number(bias.reshape(1, -1)), name=f"{self.here}/bias").output(0)

    def _conv(self, image: ov.Output, weight: ov.Output, bias: np.ndarray, shape: Conv) -> ov.Output:
        pads = [shape.padding] * 2
        x = op.convolution(image, weight, [shape.stride] * 2, pads, pads, [1, 1], name=self.here)
        return op.add(x, self._number(bias.reshape(1, -1, 1, 1)), name=f"{self.here}/bias").output(0)

    def _shuffled(self, x: ov.Output, shape: Conv) -> ov.Output:
        if shape.shuffle == 1:
            return x
        return op.depth_to_space(x, "depth_first", shape.shuffle, name=self.name("shuffle")).output(0)

    def _integers(self, layer: LayerPlan) -> ov.Output:
        """int8 constant -> Convert -> Multiply by the scale of each output channel."""
        stored = op.constant(layer.weight, name=f"{self.here}.weight")
        x = op.convert(stored, "f32", name=f"{self.here}.weight/float")
        scale = layer.weight_scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
        return op.multiply(x, self._number(scale), name=f"{self.here}.weight/scaled").output(0)

    def _rounded(self, x: ov.Output, grid: StaticInput, name: str) -> ov.Output:
        ends = [self._number(value) for value in grid.ends]
        self._grids[name] = grid
        return op.fake_quantize(x, *ends, *ends, LEVELS, name=name).output(0)

    def _patches(self, tokens: ov.Output) -> ov.Output:
        places = [self._index([value]) for value in (self._first, self._tokens, 1, 1)]
        return op.slice(tokens, *places, name=self.name("slice")).output(0)

    def _index(self, value: int | list[int]) -> ov.Output:
        return op.constant(np.array(value, np.int64), name=self.name("index")).output(0)

    def _number(self, value: np.ndarray | np.generic) -> ov.Output:
        return op.constant(np.asarray(value, np.float32, order="C"), name=self.name("number")).output(0)
