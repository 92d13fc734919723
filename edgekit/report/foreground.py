"""Colours of the same parts across images with the background left out, as in figure 1 of the DINOv2 paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from edgekit.errors import DataError
from edgekit.report.pictures import PatchColours, principal

_PAPER = 255  # grey level of the background
_LEAST = 4  # foreground patches: three components need as many


@dataclass(frozen=True)
class ForegroundColours:
    """A first component that tells foreground (positive scores) from background, and colours fitted on the foreground.

    Source: Oquab et al. 2023 (arXiv 2304.07193), section 7.6: PCA over the patches of all images, the first component
    thresholded, then a second PCA on what is left.
    """

    mean: np.ndarray  # (D,)
    axis: np.ndarray  # (D,)
    colours: PatchColours

    @classmethod
    def fit(cls, patches: np.ndarray, grid: tuple[int, int]) -> Self:
        """Fit on patch tokens (n, P, D) of all images; the sign is the one whose positive side touches borders less.

        Raises:
            DataError: all patches are alike, or too few differ to be a foreground.
        """
        flat = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
        mean, axes = principal(flat, 1)
        scores = ((flat - mean) @ axes[:, 0]).reshape(-1, *grid)  # (n, rows, columns)
        border = np.ones(grid, bool)
        border[1:-1, 1:-1] = False
        sign = -1.0 if (scores[:, border] > 0).mean() > (scores[:, ~border] > 0).mean() else 1.0
        kept = flat[sign * scores.ravel() > 0]
        if len(kept) < _LEAST:
            raise DataError(f"only {len(kept)} of {len(flat)} patches are foreground", why="the patch tokens are alike")
        return cls(mean, sign * axes[:, 0], PatchColours.fit(kept))

    def mask(self, patches: np.ndarray) -> np.ndarray:
        """The foreground mask (..., P) bool of patch tokens (..., P, D)."""
        found: np.ndarray = (patches.astype(np.float64) - self.mean) @ self.axis > 0
        return found

    def paint(self, patches: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """A picture (rows, columns, 3) uint8 of the patch tokens (P, D) of one image, the background white."""
        painted = self.colours.paint(patches, grid)
        painted[~self.mask(patches).reshape(grid)] = _PAPER
        return painted
