"""Single-object localisation from patch features without any training: LOST, and how often it is right (CorLoc)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.errors import DataError
from edgekit.images.boxes import Box

_EXPANDED = 0.14  # share of patches that may join the seed: the paper's k = 100 of its about 700 patches per image
CORRECT_IOU = 0.5  # of a correct localisation (CorLoc)


@dataclass(frozen=True)
class Found:
    """The object of one image: `mask` (rows, columns) of its patches, its `seed` patch (row, column), its box."""

    mask: np.ndarray
    seed: tuple[int, int]

    def box(self, patch: int) -> Box:
        """In pixels of the model's input."""
        rows, columns = np.nonzero(self.mask)
        ends = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        left, top, right, bottom = (float(patch * end) for end in ends)
        return left, top, right, bottom


def localise(features: np.ndarray, grid: tuple[int, int]) -> Found:
    """LOST (Siméoni et al. 2021, arXiv 2109.14279, section 3) on the patch features (P, D) of one image.

    The seed is the patch with the fewest positive correlations; of the 14 % of patches with the fewest, those that
    correlate with it join it; the object is the component around the seed of the patches that correlate with their sum.
    Features are centred on the image first: those of DINOv2 correlate positively everywhere, which Darcet et al. 2023
    (section 3.3) counter by a bias on the Gram matrix, too.

    Raises:
        DataError: the features are not of that grid.
    """
    if len(features) != grid[0] * grid[1]:
        raise DataError(f"{len(features)} patch features are not a grid of {grid[0]} x {grid[1]}")
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    gram = centred @ centred.T  # (P, P)
    degrees = (gram >= 0).sum(axis=1)
    order = np.argsort(degrees, kind="stable")
    seed = int(order[0])
    candidates = order[: max(1, round(_EXPANDED * len(order)))]
    joined = candidates[gram[seed, candidates] >= 0]
    similar = (gram[joined].sum(axis=0) >= 0).reshape(grid)
    place = seed // grid[1], seed % grid[1]
    return Found(component(similar, place), place)


def component(mask: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """The 4-connected component of a mask (rows, columns) around a seed, which belongs to it in any case."""
    grown = np.zeros_like(mask)
    grown[seed] = True
    while True:
        wider = grown.copy()
        wider[1:] |= grown[:-1]
        wider[:-1] |= grown[1:]
        wider[:, 1:] |= grown[:, :-1]
        wider[:, :-1] |= grown[:, 1:]
        wider = wider & mask | grown
        if (wider == grown).all():
            return grown
        grown = wider


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0.0) * max(height, 0.0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - common
    return common / union if union > 0 else 0.0


def correct(found: Box, truth: tuple[Box, ...]) -> bool:
    """Whether a box meets any of the true ones with an IoU above 0.5."""
    return any(iou(found, box) > CORRECT_IOU for box in truth)
