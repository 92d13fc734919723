"""The heads that edgekit knows: which one tensors are is told by their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgekit.errors import DataError
from edgekit.graph.heads import Head
from edgekit.heads.classification import LinearClassifier, NearestNeighbours, PooledClassifier
from edgekit.heads.depth import LinearDepth
from edgekit.heads.dpt import DptDepth
from edgekit.heads.segmentation import LinearSegmenter
from edgekit.models.config import ViTConfig

_KITTI, _NYU = 80.0, 10.0  # metres, the farthest of the official depth heads


def farthest(name: str) -> float:
    """Metres that a linear depth head in a file of that name reaches."""
    return _KITTI if "kitti" in name.lower() else _NYU


def head_of(state: Mapping[str, np.ndarray], config: ViTConfig, max_depth: float) -> Head | None:
    """The head of these tensors, None where they are of none; a linear depth head reaches `max_depth` metres.

    Raises:
        DataError: it is for another backbone.
        KeyError: it lacks a tensor.
    """
    if "gallery" in state:
        return NearestNeighbours.from_state(state, config)
    if "conv_seg.weight" in state:
        return LinearSegmenter.from_state(state, config)
    if "reassemble_blocks.projects.0.conv.weight" in state:
        return DptDepth.from_state(state, config)
    if "conv_depth.weight" in state:
        return LinearDepth.from_state(state, config, max_depth)
    if state.get("weight", np.zeros(0)).ndim == 2:
        return LinearClassifier.from_state(state, config)
    return None


def with_classes(head: Head, classes: tuple[str, ...]) -> Head:
    """The head with names of its classes, where it has as many. Raises DataError when it has another number of them."""
    if not classes or not isinstance(head, LinearClassifier | PooledClassifier | NearestNeighbours | LinearSegmenter):
        return head
    count = head.shape((1, 1))[0]
    if len(classes) != count:
        raise DataError(f"{len(classes)} names of classes for a head of {count}", why="they belong to another head")
    return replace(head, classes=classes)


def try_out(head: Head, config: ViTConfig) -> None:
    """Compute it once on the smallest grid: whatever is missing or does not fit is found here, not in an export.

    Raises:
        DataError: what comes out is not finite.
    """
    import torch

    from edgekit.graph.torch_emitter import TorchEmitter

    small = replace(config, grid=(2, 2), registers=0)
    tokens = [torch.linspace(-1, 1, 5 * config.width).reshape(1, 5, -1) for _ in head.layers]
    if not torch.isfinite(head.emit(TorchEmitter(small, {}), tokens, small.grid)).all():
        raise DataError("the head gives NaN or infinite values", why="its numbers are none that a training leaves")
