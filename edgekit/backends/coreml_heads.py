"""Heads as MIL operations, in the program's number type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from coremltools.converters.mil import Builder as mb

from edgekit.backends.coreml_norms import SHRINK
from edgekit.heads.program import Grid, Head, emit_heads

if TYPE_CHECKING:
    from edgekit.backends.coreml_graph import Var, Writer


def head_outputs(writer: Writer, heads: Mapping[str, Head], blocks: Sequence[Var], hidden: Var) -> dict[str, Var]:
    """Write the heads behind a backbone (see `emit_heads`): the output of each, by name, in its final shape."""
    grid = writer.config.grid
    ops = MilOps(writer)
    found = emit_heads(ops, heads, blocks, hidden, writer.tensors, grid)
    return {
        name: mb.reshape(x=x, shape=[1, *heads[name].shape(grid)], name=f"heads_{name}_shaped")
        for name, x in found.items()
    }


class MilOps:
    """`edgekit.heads.program.HeadOps` on variables of a program; the batch is 1."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.rows, self.columns = writer.config.grid
        self._head, self._count = "", 0

    def begin(self, name: str) -> None:
        """Names start with the head's."""
        self._head, self._count = f"heads_{name}", 0

    def norm(self, tokens: Var, weight: np.ndarray, bias: np.ndarray) -> Var:
        """layer_norm, its input shrunk where that of any norm of the backbone is: it is the same residual stream."""
        return self.writer.layer_norm(self._name("norm"), tokens, weight, bias, SHRINK if self.writer.large else 1.0)

    def turn(self, tokens: Var, matrix: np.ndarray) -> Var:
        """linear."""
        return mb.linear(x=tokens, weight=self._number(matrix.T), name=self._name("turn"))

    def cls(self, tokens: Var) -> Var:
        """(1, D)."""
        end = [1, 1, tokens.shape[2]]
        squeeze = [False, True, False]
        return mb.slice_by_index(x=tokens, begin=[0, 0, 0], end=end, squeeze_mask=squeeze, name=self._name("cls"))

    def mean(self, tokens: Var) -> Var:
        """(1, D)."""
        return mb.reduce_mean(x=self._patches(tokens), axes=[1], keep_dims=False, name=self._name("mean"))

    def grid(self, tokens: Var) -> Var:
        """(1, D, rows, columns)."""
        x = mb.transpose(x=self._patches(tokens), perm=[0, 2, 1], name=self._name("transpose"))
        return mb.reshape(x=x, shape=[1, tokens.shape[2], self.rows, self.columns], name=self._name("grid"))

    def join(self, values: Sequence[Var]) -> Var:
        """concat."""
        return values[0] if len(values) == 1 else mb.concat(values=list(values), axis=1, name=self._name("join"))

    def linear(self, vector: Var, weight: np.ndarray, bias: np.ndarray) -> Var:
        """linear."""
        return mb.linear(x=vector, weight=self._number(weight), bias=self._number(bias), name=self._name("linear"))

    def conv(
        self, image: Var, weight: np.ndarray, bias: np.ndarray, *, stride: int = 1, padding: int = 0, shuffle: int = 1
    ) -> Var:
        """conv and pixel_shuffle."""
        given: dict[str, Any] = {"pad_type": "custom", "pad": [padding] * 4} if padding else {"pad_type": "valid"}
        x = mb.conv(x=image, weight=self._number(weight), bias=self._number(bias), strides=[stride] * 2,
                    name=self._name("conv"), **given)  # fmt: skip
        return x if shuffle == 1 else mb.pixel_shuffle(x=x, upscale_factor=shuffle, name=self._name("shuffle"))

    def resize(self, image: Var, size: Grid, corners: Literal["aligned", "free"]) -> Var:
        """resize_bilinear."""
        mode = "STRICT_ALIGN_CORNERS" if corners == "aligned" else "UNALIGN_CORNERS"
        return mb.resize_bilinear(x=image, target_size_height=size[0], target_size_width=size[1], sampling_mode=mode,
                                  name=self._name("resize"))  # fmt: skip

    def plus(self, a: Var, b: Var) -> Var:
        """add."""
        return mb.add(x=a, y=b, name=self._name("plus"))

    def spread(self, image: Var, vector: Var) -> Var:
        """add of a map of one place."""
        return self.plus(image, mb.reshape(x=vector, shape=[1, -1, 1, 1], name=self._name("place")))

    def offset(self, x: Var, value: float) -> Var:
        """add of a constant."""
        return self.plus(x, self.writer.gemms.dtype(value))

    def divide(self, a: Var, b: Var) -> Var:
        """real_div."""
        return mb.real_div(x=a, y=b, name=self._name("divide"))

    def apply(self, x: Var, function: Literal["relu", "gelu", "sigmoid"]) -> Var:
        """relu, gelu or sigmoid."""
        name = self._name(function)
        match function:
            case "relu":
                return mb.relu(x=x, name=name)
            case "gelu":
                return mb.gelu(x=x, mode="EXACT", name=name)
            case "sigmoid":
                return mb.sigmoid(x=x, name=name)

    def softmax(self, vector: Var) -> Var:
        """softmax."""
        return mb.softmax(x=vector, axis=1, name=self._name("softmax"))

    def unit(self, vector: Var) -> Var:
        """Divided by its peak, whose square float16 might not hold, and then by its length."""
        size = mb.abs(x=vector, name=self._name("size"))
        peak = mb.reduce_max(x=size, axes=[1], keep_dims=True, name=self._name("peak"))
        x = self.divide(vector, peak)
        length = mb.reduce_l2_norm(x=x, axes=[1], keep_dims=True, name=self._name("length"))
        return self.divide(x, length)

    def _patches(self, tokens: Var) -> Var:
        count, width = tokens.shape[1:]
        first = count - self.rows * self.columns
        return mb.slice_by_index(x=tokens, begin=[0, first, 0], end=[1, count, width], name=self._name("patches"))

    def _number(self, value: np.ndarray) -> np.ndarray:
        return self.writer.number(value)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self._head}_{self._count}_{kind}"
