"""The operations that the network and its heads are made of; each format writes every one of them in its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, cast

import numpy as np

from edgekit.graph.sizes import FREE_GRID
from edgekit.models.rope import rotation_of
from edgekit.plan.heads import HEADS

if TYPE_CHECKING:
    from edgekit.graph.gemms import GemmStrategy
    from edgekit.models.config import ViTConfig
    from edgekit.plan.heads import HeadPlan, LayerPlan

Grid = tuple[int, int]  # (rows, columns)
Sides = tuple[int, int]  # the shortest and the longest side of images, in pixels
Tensors = Mapping[str, np.ndarray]  # keys of `edgekit.surgery.state_of`
Activation = Literal["relu", "gelu", "sigmoid"]
Corners = Literal["aligned", "free"]

V = TypeVar("V")  # a value of some format: tokens (B, N, D), a vector (B, C) or a map (B, C, rows, columns)


@dataclass(frozen=True)
class Conv:
    """The shape of a convolution over a map; then `shuffle`^2 channels become one of a map that many times larger."""

    kernel: int
    stride: int
    padding: int
    shuffle: int
    relu: bool


class BackboneEmitter(ABC, Generic[V]):
    """Writes operations into a graph of one format: those that the backbone is made of.

    `edgekit.graph.backbone` and `edgekit.graph.heads` call it and know nothing of layouts, number types or files. The
    shapes in the docstrings are those of the reference model; a format may keep its values in another layout. Formats
    that write heads too implement `Emitter`.

    Operations of the backbone are named by the module path they belong to. Those of a head get a name of their own from
    `name_of`: in a head's program no name is given.
    """

    def __init__(
        self,
        config: ViTConfig,
        tensors: Tensors,
        gemms: GemmStrategy[V],
        head_plan: HeadPlan | None = None,
        sides: Sides | None = None,
    ) -> None:
        """For a baked model, or with `sides` for images of any size between them.

        Args:
            config: its `grid` is the image size in patches; with `sides` that of the stored table of positions.
            tensors: float tensors as `edgekit.surgery.state_of` gives them.
            gemms: how weight GEMMs and attention products are written.
            head_plan: integers of the heads; None writes them in float.
            sides: of images whose size is known at run time only; of formats whose backend has `any_size`.
        """
        self.config, self.tensors, self.gemms, self.sides = config, tensors, gemms, sides
        self.rows, self.columns = config.grid
        self.prefix = config.prefix  # tokens in front of the patches
        self.tokens = self.prefix + self.rows * self.columns
        self._head_plan = head_plan
        self._head, self._nodes, self._layers = "", 0, 0

    @property
    def grid(self) -> Grid:
        """Patches as (rows, columns); of images of any size they are `edgekit.graph.sizes.Side`, used like ints."""
        return cast("Grid", FREE_GRID) if self.sides else self.config.grid

    # Constants that formats write in their own ways

    @property
    def prefix_tokens(self) -> np.ndarray:
        """Class token, with its position where those are learned, and registers without: (1, 1 + R, D)."""
        cls = self.tensors["cls_token"]
        parts = [cls + self.tensors["pos_embed"][:, :1] if self.learned_positions else cls]
        if self.config.registers:
            parts.append(self.tensors["register_tokens"])
        return np.concatenate(parts, axis=1)

    @property
    def learned_positions(self) -> bool:
        """Whether a table of positions is added to the patches."""
        return self.config.positions == "learned"

    @property
    def patch_positions(self) -> np.ndarray:
        """Learned positions of the patches (1, P, D), zeros where positions are rotary."""
        if self.learned_positions:
            return self.tensors["pos_embed"][:, 1:]
        return np.zeros((1, self.tokens - self.prefix, self.config.width), np.float32)

    @cached_property
    def rotation(self) -> tuple[np.ndarray, np.ndarray]:
        """Tables (cos, sin) of `turn`, (N, d) each; see `edgekit.models.rope.rotation_of`."""
        return rotation_of(self.config)

    # Names

    def begin_head(self, name: str) -> None:
        """The operations that follow belong to the head of that name."""
        self._head, self._nodes, self._layers = f"{HEADS}{name}", 0, 0

    @property
    def in_head(self) -> bool:
        """Whether a head is being written, and no longer the backbone."""
        return bool(self._head)

    @property
    def here(self) -> str:
        """The name of the head's layer at hand, as its plan has it: "heads.depth.3"."""
        return f"{self._head}.{self._layers}"

    def name_of(self, kind: str) -> str:
        """A name for a node of the head at hand, and for no other."""
        self._nodes += 1
        return f"{self._head}/{self._nodes}.{kind}"

    # Operations of the backbone

    def measure(self, pixels: V) -> None:
        """Take the grid of patches from images (B, 3, H, W), where their size is known at run time only."""

    def fused_block(self, name: str, x: V) -> V | None:
        """A whole transformer block in one operation; None where the format has none for it."""
        return None

    def fused_attention(self, name: str, packed: V) -> V | None:
        """softmax(q k^T * scale) v of packed (B, N, 3 D) in one operation; None where the format has none for it."""
        return None

    @abstractmethod
    def prepend_tokens(self, patches: V) -> V:
        """Patches (B, patches, D) as tokens (B, N, D): adds positions, and puts class token and registers in front."""

    @abstractmethod
    def split_heads(self, name: str, packed: V) -> tuple[V, V, V]:
        """Packed projection (B, N, 3 D) as q, k, v of (B, H, N, d)."""

    @abstractmethod
    def turn(self, name: str, x: V, shift: np.ndarray | None) -> V:
        """x * cos + swapped(x) * sin + shift for queries or keys (B, H, N, d) and the tables of `rotation`.

        `swapped` exchanges the halves of the last axis; `shift` is (H, 1, d), None where nothing is added.
        """

    @abstractmethod
    def join_heads(self, name: str, x: V) -> V:
        """Heads (B, H, N, d) joined to tokens (B, N, D)."""

    @abstractmethod
    def scale_channels(self, x: V, key: str, name: str) -> V:
        """x * tensors[key], a factor per channel."""

    @abstractmethod
    def swiglu(self, x: V, name: str) -> V:
        """silu(first half of the channels) * second half."""

    # Operations of the backbone and of heads

    @abstractmethod
    def add(self, a: V, b: V, name: str = "") -> V:
        """a + b of one shape."""

    @abstractmethod
    def layer_norm(self, x: V, weight: np.ndarray, bias: np.ndarray, name: str = "") -> V:
        """LayerNorm over the channels of every token."""

    @abstractmethod
    def matmul(self, x: V, matrix: np.ndarray, name: str = "") -> V:
        """Matrix product (B, N, in) @ (in, out)."""

    @abstractmethod
    def activate(self, x: V, function: Activation, name: str = "") -> V:
        """A function of every number; gelu is the exact one, by erf."""

    @abstractmethod
    def class_token(self, tokens: V, name: str = "") -> V:
        """The first token (B, D) of tokens (B, N, D)."""


class Emitter(BackboneEmitter[V]):
    """Writes the operations of heads too."""

    def linear(self, vector: V, weight: np.ndarray, bias: np.ndarray) -> V:
        """W x + b, W (out, in); in integers where the plan has them."""
        planned = self._next_layer()
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
        """Convolution, weight (out, in, k, k), and ReLU if wanted (see `Conv`); in integers where the plan has them."""
        planned, shape = self._next_layer(), Conv(weight.shape[2], stride, padding, shuffle, relu)
        if planned is None:
            return self.float_conv(image, weight, bias, shape)
        return self.integer_conv(image, planned, shape)

    def _next_layer(self) -> LayerPlan | None:
        self._layers += 1
        return self._head_plan.layers.get(self.here) if self._head_plan else None

    @abstractmethod
    def mean_patch(self, tokens: V) -> V:
        """The mean of the patch tokens as a vector."""

    @abstractmethod
    def patch_map(self, tokens: V) -> V:
        """The patch tokens as a map (B, D, rows, columns)."""

    @abstractmethod
    def concat(self, values: Sequence[V]) -> V:
        """Vectors, or maps, one after the other along their channels."""

    @abstractmethod
    def resize(self, image: V, size: Grid, corners: Corners) -> V:
        """Bilinear; "aligned" is torch's align_corners=True."""

    @abstractmethod
    def add_channelwise(self, image: V, vector: V) -> V:
        """A map plus a vector at every place."""

    @abstractmethod
    def add_scalar(self, x: V, value: float) -> V:
        """x plus a constant."""

    @abstractmethod
    def divide(self, a: V, b: V) -> V:
        """Quotient of two maps."""

    @abstractmethod
    def softmax(self, vector: V) -> V:
        """Softmax over a vector's channels."""

    @abstractmethod
    def l2_normalize(self, vector: V) -> V:
        """A vector scaled to length one."""

    @abstractmethod
    def float_linear(self, vector: V, weight: np.ndarray, bias: np.ndarray) -> V:
        """W x + b, W (out, in), in float."""

    @abstractmethod
    def integer_linear(self, vector: V, layer: LayerPlan) -> V:
        """W x + b with a plan's integer weights."""

    @abstractmethod
    def float_conv(self, image: V, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> V:
        """Convolution in float, weight (out, in, k, k)."""

    @abstractmethod
    def integer_conv(self, image: V, layer: LayerPlan, shape: Conv) -> V:
        """Convolution with a plan's integers; the quantizer of the output, which begins at 0, is the ReLU."""
