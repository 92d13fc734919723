"""A head is a program over a few operations: written once, computed by torch, written out by every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np

Grid = tuple[int, int]  # (rows, columns)
Task = Literal["classification", "segmentation", "depth", "saliency"]

V = TypeVar("V")  # tokens (B, N, D), a vector (B, C) or a map (B, C, rows, columns) of some format


class HeadOps(Protocol[V]):
    """What a head may be made of; layouts, names and types are the format's business."""

    def begin(self, name: str) -> None:
        """The operations that follow belong to the head of that name."""

    def norm(self, tokens: V, weight: np.ndarray, bias: np.ndarray) -> V:
        """LayerNorm of every token."""
        ...

    def turn(self, tokens: V, matrix: np.ndarray) -> V:
        """tokens @ matrix."""
        ...

    def cls(self, tokens: V) -> V:
        """The class token as a vector."""
        ...

    def mean(self, tokens: V) -> V:
        """The mean of the patch tokens as a vector."""
        ...

    def grid(self, tokens: V) -> V:
        """The patch tokens as a map."""
        ...

    def join(self, values: Sequence[V]) -> V:
        """Vectors, or maps, one after the other along their channels."""
        ...

    def linear(self, vector: V, weight: np.ndarray, bias: np.ndarray) -> V:
        """W x + b, W (out, in)."""
        ...

    def conv(
        self, image: V, weight: np.ndarray, bias: np.ndarray, *, stride: int = 1, padding: int = 0, shuffle: int = 1
    ) -> V:
        """Convolution, weight (out, in, k, k); then `shuffle`^2 channels become one of a map that many times larger."""
        ...

    def resize(self, image: V, size: Grid, corners: Literal["aligned", "free"]) -> V:
        """Bilinear; "aligned" is torch's align_corners=True."""
        ...

    def plus(self, a: V, b: V) -> V:
        """Sum of two maps."""
        ...

    def spread(self, image: V, vector: V) -> V:
        """A vector added to every place of a map."""
        ...

    def offset(self, x: V, value: float) -> V:
        """A constant added everywhere."""
        ...

    def divide(self, a: V, b: V) -> V:
        """Quotient of two maps."""
        ...

    def apply(self, x: V, function: Literal["relu", "gelu", "sigmoid"]) -> V:
        """A function of every number; gelu is the exact one."""
        ...

    def softmax(self, vector: V) -> V:
        """Of a vector's channels."""
        ...

    def unit(self, vector: V) -> V:
        """A vector scaled to length one."""
        ...


class Head(Protocol):
    """A task on the frozen backbone."""

    @property
    def task(self) -> Task:
        """What its output means, and so how its drift is measured."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks whose output it takes, counted from 0."""
        ...

    @property
    def normed(self) -> bool:
        """Whether it takes them behind the backbone's final norm."""
        ...

    def emit(self, ops: HeadOps[V], layers: Sequence[V], grid: Grid) -> V:
        """Write the head over tokens (B, N, D) of each layer; returns its vector or map."""
        ...

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """Of the output, without the batch: (C,), (C, rows, columns), or (rows, columns) of a map of one channel."""
        ...


def emit_heads(
    ops: HeadOps[V], heads: Mapping[str, Head], blocks: Sequence[V], hidden: V, tensors: Mapping[str, np.ndarray],
    grid: Grid,
) -> dict[str, V]:  # fmt: skip
    """Write all heads behind a backbone that is run once.

    Args:
        ops: of the format.
        heads: by the name of their output.
        blocks: the residual stream (B, N, D) behind each block.
        hidden: the last of them behind the final norm.
        tensors: the backbone's float tensors, see `edgekit.surgery.state_of`.
        grid: patches (rows, columns).
    """
    made: dict[tuple[int, bool], V] = {(len(blocks) - 1, True): hidden}

    def layer(index: int, normed: bool) -> V:
        if (index, normed) not in made:
            x = blocks[index]
            if "unrotate" in tensors:
                x = ops.turn(x, tensors["unrotate"])
            made[index, normed] = ops.norm(x, tensors["norm.weight"], tensors["norm.bias"]) if normed else x
        return made[index, normed]

    outputs = {}
    for name, head in heads.items():
        ops.begin(name)
        outputs[name] = head.emit(ops, [layer(index, head.normed) for index in head.layers], grid)
    return outputs
