"""Linear depth: a 1x1 convolution votes for depth bins, whose weighted mean is the depth in metres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgekit.errors import DataError
from edgekit.graph.emitter import Emitter, Grid, V
from edgekit.graph.heads import Task
from edgekit.models.config import ViTConfig

UPSAMPLE = 4  # of the patch grid, as the official heads
MIN_DEPTH = 0.001
_EPSILON = 0.1  # added to every vote


def depth_layers(depth: int, count: int) -> tuple[int, ...]:
    """The blocks that official depth heads look at: the last, or four of them over the depth of the network."""
    if count == 1:
        return (depth - 1,)
    return (4, 11, 17, 23) if depth == 24 else tuple((i + 1) * depth // 4 - 1 for i in range(4))


@dataclass(frozen=True)
class LinearDepth:
    """Depth in metres (B, 4 * rows, 4 * columns) from patch and class token of one or four layers, before the norm.

    File: `decode_head.conv_depth.*` (bins, layers * 2 * D, 1, 1) of facebookresearch/dinov2's depthers (BNHead with
    uniform bins and linear normalisation; dinov2/hub/depth/decode_heads.py).
    """

    task: ClassVar[Task] = "depth"
    normed: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = ()
    weight: np.ndarray  # (bins, layers, 2, D): of patches and of the class token
    bias: np.ndarray
    layers: tuple[int, ...]
    max_depth: float

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: ViTConfig, max_depth: float) -> LinearDepth:
        """Raises DataError when the convolution is for another width or number of layers."""
        weight = state["conv_depth.weight"]
        count = weight.shape[1] / config.width / 2
        if count not in (1, 4) or count > config.depth:
            raise DataError(
                f"the depth head takes {weight.shape[1]} channels",
                why=f"a backbone of width {config.width} gives {2 * config.width} or {8 * config.width}",
            )
        parts = weight.reshape(len(weight), int(count), 2, config.width)
        return cls(parts, state["conv_depth.bias"], depth_layers(config.depth, int(count)), max_depth)

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        """Votes on the patch grid, resized (which commutes with a 1x1 convolution), then the mean over the bins."""
        patches, tokens = (np.ascontiguousarray(self.weight[:, :, part]) for part in (0, 1))  # (bins, layers, D) each
        bins = len(self.weight)
        votes = e.conv(e.concat([e.patch_map(x) for x in layers]), patches.reshape(bins, -1, 1, 1), self.bias)
        cls = e.linear(e.concat([e.class_token(x) for x in layers]), tokens.reshape(bins, -1), np.zeros_like(self.bias))
        votes = e.resize(e.add_channelwise(votes, cls), (UPSAMPLE * grid[0], UPSAMPLE * grid[1]), "free")
        votes = e.add_scalar(e.activate(votes, "relu"), _EPSILON)
        none = np.zeros(1, np.float32)  # both sums are divided by the bins, so that float16 can hold them
        depths = np.linspace(MIN_DEPTH, self.max_depth, bins, dtype=np.float32).reshape(1, -1, 1, 1) / bins
        return e.divide(e.conv(votes, depths, none), e.conv(votes, np.full_like(depths, 1 / bins), none))

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """The size of the depth map, (4 * rows, 4 * columns)."""
        return UPSAMPLE * grid[0], UPSAMPLE * grid[1]
