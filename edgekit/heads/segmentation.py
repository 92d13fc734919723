"""Linear and multi-scale segmentation: batch norm and one 1x1 convolution over the patch tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgekit.errors import DataError
from edgekit.graph.emitter import Emitter, Grid, V
from edgekit.graph.heads import Task
from edgekit.models.config import ViTConfig

_BATCH_NORM_EPS = 1e-5


@dataclass(frozen=True)
class LinearSegmenter:
    """Logits (B, classes, rows, columns), one per patch; resize them to the picture before the argmax.

    `weight` (classes, layers * D) holds the batch norm. File: `decode_head.conv_seg.*` and `decode_head.bn.*` of
    facebookresearch/dinov2's segmentation models (BNHead over the last layer, or over the last four).
    """

    task: ClassVar[Task] = "segmentation"
    normed: ClassVar[bool] = True
    weight: np.ndarray
    bias: np.ndarray
    layers: tuple[int, ...]
    classes: tuple[str, ...] = ()

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: ViTConfig) -> LinearSegmenter:
        """Raises DataError when the convolution is for another width or number of layers."""
        weight = state["conv_seg.weight"][:, :, 0, 0].astype(np.float64)  # (classes, channels)
        count = weight.shape[1] / config.width
        if count not in (1, 4) or count > config.depth:
            raise DataError(
                f"the segmentation head takes {weight.shape[1]} channels",
                why=f"a backbone of width {config.width} gives {config.width} or {4 * config.width}",
            )
        gain = state["bn.weight"] / np.sqrt(state["bn.running_var"].astype(np.float64) + _BATCH_NORM_EPS)
        bias = state["conv_seg.bias"] + weight @ (state["bn.bias"] - state["bn.running_mean"] * gain)
        layers = tuple(range(config.depth - int(count), config.depth))
        return cls((weight * gain).astype(np.float32), bias.astype(np.float32), layers)

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        """1x1 convolution over the joined layers."""
        return e.conv(e.concat([e.patch_map(layer) for layer in layers]), self.weight[:, :, None, None], self.bias)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """The shape of the logits, (classes, rows, columns)."""
        return (len(self.weight), *grid)
