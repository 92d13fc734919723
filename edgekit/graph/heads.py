"""A head is a program over a few operations: written once, computed by torch, written out by every format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from edgekit.plan.heads import HeadPlan, LayerPlan

HEADS = "heads."  # what the names of all layers and nodes of heads begin with
Grid = tuple[int, int]  # (rows, columns)
Task = Literal["classification", "segmentation", "depth", "saliency"]

V = TypeVar("V")  # tokens (B, N, D), a vector (B, C) or a map (B, C, rows, columns) of some format


@dataclass(frozen=True)
class Conv:
    """How a convolution goes over a map; then `shuffle`^2 channels become one of a map that many times larger."""

    kernel: int
    stride: int
    padding: int
    shuffle: int
    relu: bool


class HeadOps(ABC, Generic[V]):
    """What a head may be made of; layouts, names and types are the format's business.

    Convolutions and linear layers are written in integers where there is a plan that has them, else in float.
    """

    def __init__(self, plan: HeadPlan | None = None) -> None:
        self._plan = plan
        self._head, self._count, self._layers = "", 0, 0

    def begin(self, name: str) -> None:
        """The operations that follow belong to the head of that name."""
        self._head, self._count, self._layers = f"{HEADS}{name}", 0, 0

    def linear(self, vector: V, weight: np.ndarray, bias: np.ndarray) -> V:
        """W x + b, W (out, in)."""
        planned = self._next()
        return self.float_linear(vector, weight, bias) if planned is None else self.integer_linear(vector, planned)

    def conv(
        self,
        image: V,
        weight: np.ndarray,
        bias: np.ndarray,
        *,
        stride: int = 1,
        padding: int = 0,
        shuffle: int = 1,
        relu: bool = False,
    ) -> V:
        """Convolution, weight (out, in, k, k), and ReLU if wanted; see `Conv`."""
        planned, shape = self._next(), Conv(weight.shape[2], stride, padding, shuffle, relu)
        if planned is None:
            return self.float_conv(image, weight, bias, shape)
        return self.integer_conv(image, planned, shape)

    @property
    def here(self) -> str:
        """The name of the convolution or linear layer at hand, as a plan has it: "heads.depth.3"."""
        return f"{self._head}.{self._layers}"

    def name(self, kind: str) -> str:
        """For a node of the head at hand, and for no other."""
        self._count += 1
        return f"{self._head}/{self._count}.{kind}"

    def _next(self) -> LayerPlan | None:
        self._layers += 1
        return self._plan.layers.get(self.here) if self._plan else None

    @abstractmethod
    def norm(self, tokens: V, weight: np.ndarray, bias: np.ndarray) -> V:
        """LayerNorm of every token."""

    @abstractmethod
    def turn(self, tokens: V, matrix: np.ndarray) -> V:
        """tokens @ matrix."""

    @abstractmethod
    def cls(self, tokens: V) -> V:
        """The class token as a vector."""

    @abstractmethod
    def mean(self, tokens: V) -> V:
        """The mean of the patch tokens as a vector."""

    @abstractmethod
    def grid(self, tokens: V) -> V:
        """The patch tokens as a map."""

    @abstractmethod
    def join(self, values: Sequence[V]) -> V:
        """Vectors, or maps, one after the other along their channels."""

    @abstractmethod
    def resize(self, image: V, size: Grid, corners: Literal["aligned", "free"]) -> V:
        """Bilinear; "aligned" is torch's align_corners=True."""

    @abstractmethod
    def plus(self, a: V, b: V) -> V:
        """Sum of two maps."""

    @abstractmethod
    def spread(self, image: V, vector: V) -> V:
        """A vector added to every place of a map."""

    @abstractmethod
    def offset(self, x: V, value: float) -> V:
        """A constant added everywhere."""

    @abstractmethod
    def divide(self, a: V, b: V) -> V:
        """Quotient of two maps."""

    @abstractmethod
    def apply(self, x: V, function: Literal["relu", "gelu", "sigmoid"]) -> V:
        """A function of every number; gelu is the exact one."""

    @abstractmethod
    def softmax(self, vector: V) -> V:
        """Of a vector's channels."""

    @abstractmethod
    def unit(self, vector: V) -> V:
        """A vector scaled to length one."""

    @abstractmethod
    def float_linear(self, vector: V, weight: np.ndarray, bias: np.ndarray) -> V:
        """W x + b, W (out, in)."""

    @abstractmethod
    def integer_linear(self, vector: V, layer: LayerPlan) -> V:
        """The same with a plan's integer weights."""

    @abstractmethod
    def float_conv(self, image: V, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> V:
        """Convolution, weight (out, in, k, k)."""

    @abstractmethod
    def integer_conv(self, image: V, layer: LayerPlan, shape: Conv) -> V:
        """The same with a plan's integers; the quantizer of the output, which begins at 0, is the ReLU."""


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
    ops: HeadOps[V],
    heads: Mapping[str, Head],
    blocks: Sequence[V],
    hidden: V,
    tensors: Mapping[str, np.ndarray],
    grid: Grid,
) -> dict[str, V]:
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
