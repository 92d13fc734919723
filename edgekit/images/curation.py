"""Draws a small, varied calibration set out of a large folder: near-duplicates out, then evenly from k-means clusters.

The idea is the data curation of DINOv2 (arXiv 2304.07193, section 3) at the size of a calibration set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.errors import BackendMissing, DataError

DUPLICATE = 0.97  # cosine of class tokens above which two images count as one
PER_CLUSTER = 4  # images wanted of each cluster: n / 4 clusters


@dataclass(frozen=True)
class Curation:
    """What was chosen: indices into the images given, in order; and how."""

    chosen: tuple[int, ...]
    duplicates: int  # images that were left out as copies of another
    clusters: int


def curate(features: np.ndarray, n: int, *, seed: int = 0, duplicate: float = DUPLICATE) -> Curation:
    """Choose `n` images (fewer when so many are not different).

    Args:
        features: (images, D) one embedding per image; the class token.
        n: how many to choose.
        seed: of k-means and of the draw inside clusters.
        duplicate: cosine above which two images are one.

    Raises:
        DataError: no images, or n < 1.
        BackendMissing: scikit-learn is not installed.
    """
    if len(features) == 0 or n < 1:
        raise DataError(f"{n} of {len(features)} images cannot be chosen", fix="edgekit curate DIR -n 64")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    kept = _without_duplicates(unit, duplicate)
    clusters = min(len(kept), max(1, round(n / PER_CLUSTER)))
    labels = _clusters(unit[kept], clusters, seed)
    order = np.random.default_rng(seed).permutation(len(kept))
    queues = [[int(kept[i]) for i in order if labels[i] == c] for c in range(clusters)]
    chosen: list[int] = []
    while len(chosen) < min(n, len(kept)):  # in turns, so that small clusters give all they have
        for queue in queues:
            if queue and len(chosen) < n:
                chosen.append(queue.pop())
    return Curation(tuple(sorted(chosen)), len(features) - len(kept), clusters)


def _without_duplicates(unit: np.ndarray, duplicate: float) -> np.ndarray:
    """Indices of images that are no near-copy of an earlier kept one."""
    kept: list[int] = []
    for i, row in enumerate(unit):
        if not kept or float((unit[kept] @ row).max()) < duplicate:
            kept.append(i)
    return np.array(kept)


def _clusters(unit: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise BackendMissing("scikit-learn is not installed", why="curation clusters the images with it",
                             fix='pip install "edgekit[eval]"') from None  # fmt: skip
    return np.asarray(KMeans(clusters, random_state=seed, n_init=4).fit_predict(unit))
