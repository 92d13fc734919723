"""Task drift: what a head makes of drifted features, as error and overlap of its maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.artifact import Frozen
from edgekit.errors import DataError
from edgekit.measure.statistics import Estimate, bootstrap_mean

_THRESHOLD = 0.5  # of a map: above it a pixel belongs to the object


class ImageTaskDrift(Frozen):
    """One image's map: mean absolute error, and IoU of the areas above the threshold (None when both are empty)."""

    name: str
    mae: float
    iou: float | None


class TaskDrift(Frozen):
    """A dense head on candidate features against the same head on reference features. MAE in the map's own unit.

    `iou` averages over the `n_iou` images where at least one of the two maps exceeds `threshold`, and is 1 with n_iou
    0: neither model saw anything anywhere. `correlation` is Pearson's over the pixels of a map, averaged over images.
    """

    head: str
    n: int
    threshold: float
    mae: Estimate
    iou: Estimate
    n_iou: int
    correlation: float
    images: tuple[ImageTaskDrift, ...]


def measure_map_drift(
    reference_maps: np.ndarray,
    candidate_maps: np.ndarray,
    *,
    head: str = "saliency",
    names: Sequence[str] | None = None,
    groups: Sequence[str] = (),
    seed: int = 0,
) -> TaskDrift:
    """Compare a head's maps (n, H, W) on reference and candidate features; `groups` as of `bootstrap_ratio`.

    Raises:
        DataError: shapes differ, there is no map, or values are not finite.
    """
    if reference_maps.shape != candidate_maps.shape or len(reference_maps) == 0:
        raise DataError(f"maps of the {head} head: {candidate_maps.shape} against {reference_maps.shape}")
    if not (np.isfinite(reference_maps).all() and np.isfinite(candidate_maps).all()):
        raise DataError(f"the {head} head put out values that are not finite")
    n = len(reference_maps)
    names = tuple(names) if names else tuple(str(i) for i in range(n))
    images, correlations = [], []
    for name, a, b in zip(names, reference_maps.astype(np.float64), candidate_maps.astype(np.float64), strict=True):
        above_a, above_b = a >= _THRESHOLD, b >= _THRESHOLD
        union = int((above_a | above_b).sum())
        iou = float((above_a & above_b).sum() / union) if union else None
        images.append(ImageTaskDrift(name=name, mae=float(np.abs(a - b).mean()), iou=iou))
        correlations.append(_correlation(a.ravel(), b.ravel()))
    seen = [i for i, image in enumerate(images) if image.iou is not None]
    ious = np.array([images[i].iou for i in seen])
    seen_groups = [groups[i] for i in seen] if groups else ()
    return TaskDrift(
        head=head,
        n=n,
        threshold=_THRESHOLD,
        mae=bootstrap_mean(np.array([image.mae for image in images]), groups=groups, seed=seed),
        iou=bootstrap_mean(ious, groups=seen_groups, seed=seed)
        if len(ious)
        else Estimate(value=1.0, low=1.0, high=1.0),
        n_iou=len(ious),
        correlation=float(np.mean(correlations)),
        images=tuple(images),
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else float(np.array_equal(a, b))
