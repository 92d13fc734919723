"""Outliers among patch-token norms, as Darcet et al. 2023 count them: patches that a model uses as scratch memory."""

from __future__ import annotations

import numpy as np

from edgekit.artifact import Frozen

_ROBUST_SIGMA = 1.4826  # of a normal distribution's median absolute deviation
_SIGMAS = 6.0  # no normal distribution reaches as far: one patch in 10^9


class NormReport(Frozen):
    """L2 norms of all patch tokens before the final norm.

    `outlier_share` is of patches above `threshold`, `outlier_images` the share of images with any, and
    `attention_on_outliers` the mean share of the class token's attention to patches that lands there.
    """

    median: float
    p99: float
    maximum: float
    threshold: float
    outlier_share: float
    outlier_images: float
    attention_on_outliers: float


def cutoff_of(norms: np.ndarray) -> float:
    """Median plus six robust standard deviations; Darcet et al. read a fixed 150 off the histogram of their ViT-g."""
    median = float(np.median(norms))
    return median + _SIGMAS * _ROBUST_SIGMA * float(np.median(np.abs(norms - median)))


def measure_norms(norms: np.ndarray, attention: np.ndarray, *, cutoff: float | None = None) -> NormReport:
    """Report on norms (n, P) and the class token's attention (n, heads, P); None chooses the cutoff by `cutoff_of`."""
    threshold = cutoff_of(norms) if cutoff is None else cutoff
    outlier = norms > threshold
    weights = attention.mean(axis=1)  # (n, P)
    on_outliers = (weights * outlier).sum(axis=1) / weights.sum(axis=1)
    return NormReport(
        median=float(np.median(norms)),
        p99=float(np.quantile(norms, 0.99)),
        maximum=float(norms.max()),
        threshold=threshold,
        outlier_share=float(outlier.mean()),
        outlier_images=float(outlier.any(axis=1).mean()),
        attention_on_outliers=float(on_outliers.mean()),
    )
