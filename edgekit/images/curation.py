"""Draws a small, varied calibration set out of a large folder: near-duplicates out, then evenly from k-means clusters.

The idea is the data curation of DINOv2 (arXiv 2304.07193, section 3) at the size of a calibration set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekit.errors import BackendMissing, DataError

LARGE = 50_000  # images up to which every pair is compared: the work grows with their square
DUPLICATE = 0.97  # cosine of class tokens above which two images count as one
_BLOCK = 4096  # images whose cosines with as many are in memory at once: 64 MB
PER_CLUSTER = 4  # images wanted of each cluster: n / 4 clusters


@dataclass(frozen=True)
class Curation:
    """The chosen images as indices into those given, in order, and how they were chosen."""

    chosen: tuple[int, ...]
    duplicates: int  # images that were left out as copies of another
    clusters: int
    searched: Searched = "all"


Searched = Literal["all", "chosen"]
"""Among which images near-duplicates were looked for."""


def curate(
    features: np.ndarray, n: int, *, seed: int = 0, duplicate: float = DUPLICATE, large: int = LARGE
) -> Curation:
    """Choose `n` images (fewer when so many are not different).

    Above `large` images, k-means sees them in mini-batches, and near-duplicates are left out among those that are
    drawn rather than among all pairs: time and memory then grow with the number of images alone.

    Args:
        features: (images, D) one embedding per image; the class token. A copy of it is made.
        n: how many to choose.
        seed: of k-means and of the draw inside clusters.
        duplicate: cosine above which two images are one.
        large: above this number of images not all pairs are compared.

    Raises:
        DataError: no images, or n < 1.
        BackendMissing: scikit-learn is not installed.
    """
    if len(features) == 0 or n < 1:
        raise DataError(f"{n} of {len(features)} images cannot be chosen", fix="-n 64, of a folder of images")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    searched: Searched = "all" if len(unit) <= large else "chosen"
    kept = _without_duplicates(unit, duplicate) if searched == "all" else np.arange(len(unit))
    clusters = min(len(kept), max(1, round(n / PER_CLUSTER)))
    labels = _clusters(unit[kept] if len(kept) < len(unit) else unit, clusters, seed, searched)
    queues: list[list[int]] = [[] for _ in range(clusters)]
    for i in np.random.default_rng(seed).permutation(len(kept)):
        queues[labels[i]].append(int(kept[i]))
    chosen: list[int] = []
    duplicates = len(features) - len(kept)
    while len(chosen) < n and any(queues):  # in turns, so that small clusters give all they have
        for queue in queues:
            while queue and len(chosen) < n:
                image = queue.pop()
                if searched == "all" or not chosen or float((unit[chosen] @ unit[image]).max()) < duplicate:
                    chosen.append(image)
                    break
                duplicates += 1
    return Curation(tuple(sorted(chosen)), duplicates, clusters, searched)


def _without_duplicates(unit: np.ndarray, duplicate: float) -> np.ndarray:
    """Indices of images that are no near-copy of an earlier kept one, found block by block."""
    kept = np.empty(len(unit), np.int64)
    rows = np.empty_like(unit)  # of those that are kept
    count = 0
    for start in range(0, len(unit), _BLOCK):
        block = unit[start : start + _BLOCK]
        alike = np.zeros(len(block), bool)
        for first in range(0, count, _BLOCK):
            alike |= (block @ rows[first : min(first + _BLOCK, count)].T).max(axis=1) >= duplicate
        pairs = block @ block.T >= duplicate
        for i in np.flatnonzero(~alike):
            if not alike[i]:
                kept[count], rows[count] = start + i, block[i]
                count += 1
                alike[i + 1 :] |= pairs[i, i + 1 :]
    return kept[:count]


def _clusters(unit: np.ndarray, clusters: int, seed: int, searched: Searched) -> np.ndarray:
    try:
        from sklearn.cluster import KMeans, MiniBatchKMeans
    except ImportError:
        raise BackendMissing(
            "scikit-learn is not installed",
            why="curation clusters the images with it",
            fix='pip install "edgekit[eval]"',
        ) from None
    if searched == "chosen":
        return np.asarray(MiniBatchKMeans(clusters, random_state=seed, n_init=4, batch_size=_BLOCK).fit_predict(unit))
    return np.asarray(KMeans(clusters, random_state=seed, n_init=4).fit_predict(unit))
