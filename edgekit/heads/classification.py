"""Classification on class and mean patch token: the official linear head, and k-NN over a stored gallery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgekit.errors import DataError
from edgekit.graph.emitter import Emitter, Grid, V
from edgekit.graph.heads import Task
from edgekit.models.config import ViTConfig

TEMPERATURE = 0.07  # of the k-NN classifier, as in facebookresearch/dinov2's dinov2/eval/knn.py


@dataclass(frozen=True)
class LinearClassifier:
    """Logits (B, classes) of the class tokens of one or four last layers and the last one's mean patch token.

    File: `weight` (classes, (layers + 1) * D) and `bias` (classes,), facebookresearch/dinov2's hub/classifiers.py.
    """

    task: ClassVar[Task] = "classification"
    normed: ClassVar[bool] = True
    weight: np.ndarray
    bias: np.ndarray
    layers: tuple[int, ...]
    classes: tuple[str, ...] = ()

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: ViTConfig) -> LinearClassifier:
        """Raises DataError when the weight is for another width or number of layers, or the bias for another weight."""
        weight, bias = state["weight"], state["bias"]
        if bias.shape != weight.shape[:1] or not weight.size:
            raise DataError(
                "the tensors of the classifier do not fit together", why=f"weight {weight.shape}, bias {bias.shape}"
            )
        count = weight.shape[1] / config.width - 1
        if count not in (1, 4) or count > config.depth:
            raise DataError(
                f"the classifier takes {weight.shape[1]} features",
                why=f"a backbone of width {config.width} gives {2 * config.width} or {5 * config.width}",
            )
        return cls(weight, bias, tuple(range(config.depth - int(count), config.depth)))

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        """[cls of each layer, mean patch of the last] W^T + b."""
        return e.linear(e.concat([*map(e.class_token, layers), e.mean_patch(layers[-1])]), self.weight, self.bias)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """The shape of the logits, (classes,)."""
        return (len(self.weight),)


@dataclass(frozen=True)
class PooledClassifier:
    """Logits (B, classes) of one pooled token, as in timm/models/vision_transformer.py.

    `pool` "token": the class token behind the final norm. "avg": the mean patch token, behind the final norm or, where
    there is a `pooled_norm` (weight and bias of timm's `fc_norm`), before it and normed itself.
    File: `head.weight` (classes, D) and `head.bias`; `fc_norm.*`.
    """

    task: ClassVar[Task] = "classification"
    weight: np.ndarray
    bias: np.ndarray
    layers: tuple[int, ...]
    pool: Literal["token", "avg"] = "token"
    pooled_norm: tuple[np.ndarray, np.ndarray] | None = None
    classes: tuple[str, ...] = ()

    @property
    def normed(self) -> bool:
        """Whether the final norm comes before the mean."""
        return self.pooled_norm is None

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        """pooled W^T + b."""
        pooled = e.class_token(layers[0]) if self.pool == "token" else e.mean_patch(layers[0])
        if self.pooled_norm is not None:
            pooled = e.layer_norm(pooled, *self.pooled_norm)
        return e.linear(pooled, self.weight, self.bias)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """The shape of the logits, (classes,)."""
        return (len(self.weight),)


@dataclass(frozen=True)
class NearestNeighbours:
    """Votes (B, classes) of a gallery of class tokens, each weighted by the softmax of its cosine / 0.07.

    Wu et al. 2018, but with every gallery image as a neighbour, so that the graph needs no top-k. Where unrelated
    images have high cosines, large classes outvote near neighbours.
    File: `gallery` (images, D) and `labels` (images,) int64.
    """

    task: ClassVar[Task] = "classification"
    normed: ClassVar[bool] = True
    gallery: np.ndarray
    labels: np.ndarray
    layers: tuple[int, ...]
    classes: tuple[str, ...] = ()

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: ViTConfig) -> NearestNeighbours:
        """Raises DataError when the gallery is of another backbone, or its labels number no classes."""
        gallery, labels = state["gallery"], state["labels"].astype(np.int64)
        if labels.ndim != 1 or not len(labels) or gallery.shape != (len(labels), config.width):
            wanted = f"{labels.shape} x {config.width} is needed"
            raise DataError(f"the gallery holds {gallery.shape}", why=wanted)
        if labels.min() < 0 or labels.max() >= len(labels):  # classes without a picture would be a table of any size
            why = f"{len(labels)} pictures are of classes 0 to {len(labels) - 1} at most"
            raise DataError(f"the labels of the gallery reach from {labels.min()} to {labels.max()}", why=why)
        if not gallery.any(axis=1).all():
            raise DataError("the gallery holds a picture without features", why="its cosine with others is 0 / 0")
        return cls(gallery, labels, (config.depth - 1,))

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        """softmax(cosines / T) times the gallery's classes."""
        rows = self.gallery / np.linalg.norm(self.gallery, axis=1, keepdims=True) / TEMPERATURE
        votes = np.eye(self.labels.max() + 1, dtype=np.float32)[:, self.labels]  # (classes, images)
        weights = e.softmax(e.linear(e.l2_normalize(e.class_token(layers[0])), rows, np.zeros(len(rows), np.float32)))
        return e.linear(weights, votes, np.zeros(len(votes), np.float32))

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """The shape of the logits, (classes,)."""
        return (int(self.labels.max()) + 1,)
