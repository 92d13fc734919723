"""Heads as OpenVINO operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import openvino as ov
from openvino import opset13 as op

from edgekit.heads.program import Grid, Head, emit_heads
from edgekit.models.config import DinoV2Config

_EPSILON = 1e-6  # of LayerNorm


def head_outputs(
    heads: Mapping[str, Head], blocks: Sequence[ov.Output], hidden: ov.Output, tensors: Mapping[str, np.ndarray],
    config: DinoV2Config,
) -> dict[str, ov.Output]:  # fmt: skip
    """Write the heads behind a backbone (see `emit_heads`): the output of each, by name."""
    grid = config.grid
    ops = OpenVinoOps(grid, config.tokens(*(side * config.patch for side in grid)))
    found = emit_heads(ops, heads, blocks, hidden, tensors, grid)
    return {name: ops.shaped(name, x, heads[name].shape(grid)) for name, x in found.items()}


class OpenVinoOps:
    """`edgekit.heads.program.HeadOps` on node outputs; every node is named, so that the bytes are ours."""

    def __init__(self, grid: Grid, tokens: int) -> None:
        self.rows, self.columns = grid
        self._first, self._tokens = tokens - grid[0] * grid[1], tokens
        self._head, self._count = "", 0

    def begin(self, name: str) -> None:
        """Names start with the head's."""
        self._head, self._count = f"heads.{name}", 0

    def norm(self, tokens: ov.Output, weight: np.ndarray, bias: np.ndarray) -> ov.Output:
        """MVN, scaled and shifted."""
        x = op.mvn(tokens, self._index([-1]), True, _EPSILON, "inside_sqrt", name=self._name("mvn"))
        x = op.multiply(x, self._number(weight.reshape(1, 1, -1)), name=self._name("multiply"))
        return op.add(x, self._number(bias.reshape(1, 1, -1)), name=self._name("add")).output(0)

    def turn(self, tokens: ov.Output, matrix: np.ndarray) -> ov.Output:
        """MatMul."""
        return op.matmul(tokens, self._number(matrix), False, False, name=self._name("matmul")).output(0)

    def cls(self, tokens: ov.Output) -> ov.Output:
        """(B, D)."""
        return op.gather(tokens, self._index(0), self._index(1), name=self._name("gather")).output(0)

    def mean(self, tokens: ov.Output) -> ov.Output:
        """(B, D)."""
        return op.reduce_mean(self._patches(tokens), self._index([1]), False, name=self._name("mean")).output(0)

    def grid(self, tokens: ov.Output) -> ov.Output:
        """(B, D, rows, columns)."""
        x = op.transpose(self._patches(tokens), self._index([0, 2, 1]), name=self._name("transpose"))
        shape = self._index([0, 0, self.rows, self.columns])
        return op.reshape(x, shape, True, name=self._name("reshape")).output(0)

    def join(self, values: Sequence[ov.Output]) -> ov.Output:
        """Concat."""
        return op.concat(list(values), 1, name=self._name("concat")).output(0)

    def linear(self, vector: ov.Output, weight: np.ndarray, bias: np.ndarray) -> ov.Output:
        """MatMul and Add."""
        x = op.matmul(vector, self._number(weight), False, True, name=self._name("matmul"))
        return op.add(x, self._number(bias.reshape(1, -1)), name=self._name("add")).output(0)

    def conv(
        self, image: ov.Output, weight: np.ndarray, bias: np.ndarray, *, stride: int = 1, padding: int = 0,
        shuffle: int = 1,
    ) -> ov.Output:  # fmt: skip
        """Convolution and DepthToSpace."""
        pads = [padding, padding]
        x = op.convolution(image, self._number(weight), [stride] * 2, pads, pads, [1, 1], name=self._name("conv"))
        x = op.add(x, self._number(bias.reshape(1, -1, 1, 1)), name=self._name("add"))
        if shuffle > 1:
            x = op.depth_to_space(x, "depth_first", shuffle, name=self._name("shuffle"))
        return x.output(0)

    def resize(self, image: ov.Output, size: Grid, corners: Literal["aligned", "free"]) -> ov.Output:
        """Interpolate over the last two axes."""
        mode = "align_corners" if corners == "aligned" else "half_pixel"
        return op.interpolate(
            image, self._index(list(size)), "linear_onnx", "sizes", axes=self._index([2, 3]),
            coordinate_transformation_mode=mode, name=self._name("resize"),
        ).output(0)  # fmt: skip

    def plus(self, a: ov.Output, b: ov.Output) -> ov.Output:
        """Add."""
        return op.add(a, b, name=self._name("add")).output(0)

    def spread(self, image: ov.Output, vector: ov.Output) -> ov.Output:
        """Add of a map of one place."""
        place = op.reshape(vector, self._index([0, -1, 1, 1]), True, name=self._name("place"))
        return self.plus(image, place.output(0))

    def offset(self, x: ov.Output, value: float) -> ov.Output:
        """Add."""
        return self.plus(x, self._number(np.float32(value)))

    def divide(self, a: ov.Output, b: ov.Output) -> ov.Output:
        """Divide."""
        return op.divide(a, b, name=self._name("divide")).output(0)

    def apply(self, x: ov.Output, function: Literal["relu", "gelu", "sigmoid"]) -> ov.Output:
        """ReLU, Gelu or Sigmoid."""
        name = self._name(function)
        match function:
            case "relu":
                return op.relu(x, name=name).output(0)
            case "gelu":
                return op.gelu(x, "erf", name=name).output(0)
            case "sigmoid":
                return op.sigmoid(x, name=name).output(0)

    def softmax(self, vector: ov.Output) -> ov.Output:
        """Softmax."""
        return op.softmax(vector, 1, name=self._name("softmax")).output(0)

    def unit(self, vector: ov.Output) -> ov.Output:
        """Divided by its length."""
        return self.divide(vector, op.reduce_l2(vector, self._index([1]), True, name=self._name("length")).output(0))

    def shaped(self, name: str, x: ov.Output, shape: tuple[int, ...]) -> ov.Output:
        """The head's output as (B, *shape)."""
        self.begin(name)
        index = op.constant(np.array([-1, *shape], np.int64), name=f"{self._head}/shape")
        return op.reshape(x, index, False, name=self._head).output(0)

    def _patches(self, tokens: ov.Output) -> ov.Output:
        places = [self._index([value]) for value in (self._first, self._tokens, 1, 1)]
        return op.slice(tokens, *places, name=self._name("slice")).output(0)

    def _index(self, value: int | list[int]) -> ov.Output:
        return op.constant(np.array(value, np.int64), name=self._name("index")).output(0)

    def _number(self, value: np.ndarray | np.generic) -> ov.Output:
        return op.constant(np.asarray(value, np.float32, order="C"), name=self._name("number")).output(0)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self._head}/{self._count}.{kind}"
