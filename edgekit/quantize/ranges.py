"""Choosing how a GEMM's input is quantized: shift and scale per channel (folded away by surgery) and the uint8 range.

Every choice is made by cross-validation between two unlike halves of the calibration images: statistics come from one
half, the error is counted on the other. A range that only fits its own images loses there, as it would in the field.

The error of a candidate is the squared error it causes at the GEMM's output, sum_k |W_k|^2 e_k^2 with e the error of the
input's channel k: rounding errors of different channels are uncorrelated, so cross terms average out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgekit.quantize.plan import StaticInput

LEVELS = 255

ALPHAS = (0.5, 0.65, 0.8, 1.0)  # SmoothQuant's migration strength: 1 moves all spread into the weights
TAILS = (0.0, 5e-4, 1e-2)  # share of rows cut off at either end before a channel's spread is read
MARGINS = (0.4, 0.55, 0.7, 0.85, 1.0, 1.15)  # of the observed range; below 1 clips, above 1 leaves headroom


@dataclass(frozen=True)
class Smoothing:
    """x' = (x - shift) / scale per channel, and the share of the observed range of x' that the quantizer covers."""

    shift: Tensor  # (K,)
    scale: Tensor  # (K,) > 0
    alpha: float
    tail: float
    margin: float


def static_input(low: float, high: float) -> StaticInput:
    """The uint8 quantizer that covers [low, high] and 0, with an exact zero (zero point an integer)."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    scale = float(torch.tensor(scale, dtype=torch.float32))  # what every file format will store
    return StaticInput(scale, int(min(max(round(-low / scale), 0), LEVELS)))


def rounding_error(x: Tensor, quantizer: StaticInput, energy: Tensor) -> float:
    """Mean over rows of sum_k energy_k * (error of channel k)^2, for x (T, K) and energy (K,) = |W_k|^2."""
    q = (x / quantizer.scale).round_().clamp_(-quantizer.zero_point, LEVELS - quantizer.zero_point)
    return float(q.mul_(quantizer.scale).sub_(x).square_().mean(0) @ energy)


def channel_range(rows: Tensor, tail: float) -> tuple[Tensor, Tensor]:
    """Range per channel (K,), (K,) with a share `tail` of the rows cut off at both ends."""
    if tail == 0:
        return rows.amin(0), rows.amax(0)
    cut = max(1, round(tail * len(rows)))
    return rows.topk(cut, dim=0, largest=False).values[-1], rows.topk(cut, dim=0).values[-1]


def smoothing_scale(low: Tensor, high: Tensor, shift: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """s = spread^alpha / |W|^(1 - alpha) per channel, geometric mean 1 (SmoothQuant, arXiv 2211.10438, eq. 4)."""
    spread = torch.maximum(high - shift, shift - low)
    spread = spread.clamp(min=float(spread.max()) * 1e-4 + 1e-12)
    peak = weight.abs().amax(0)
    peak = peak.clamp(min=float(peak.max()) * 1e-4 + 1e-12)
    scale = spread.pow(alpha) / peak.pow(1 - alpha)
    return scale / scale.log().mean().exp()


def choose_smoothing(
    rows: Tensor, half: Tensor, weight: Tensor, *, shift: bool, scale: bool, margins: Iterable[float] = MARGINS
) -> Smoothing:
    """The shift, scale and clipping of a GEMM input with the least cross-validated output error.

    Args:
        rows: (T, K) sample of the input.
        half: (T,) bool, which of the two unlike halves of the images a row belongs to.
        weight: (out, K) of the GEMM that reads it.
        shift: whether a shift can be folded away before this GEMM.
        scale: whether a scale can.
        margins: shares of the observed range to try.
    """
    energy = weight.square().sum(0)
    zero, one = torch.zeros(rows.shape[1]), torch.ones(rows.shape[1])
    margins = tuple(margins)
    best: tuple[float, float, float, float] | None = None
    folds = [(rows[fold], rows[~fold]) for fold in (half, ~half)]
    extremes = [channel_range(seen, 0.0) for seen, _ in folds]
    for tail in TAILS if scale else (0.0,):
        spreads = [channel_range(seen, tail) for seen, _ in folds]
        for alpha in ALPHAS if scale else (0.0,):
            errors = [0.0] * len(margins)
            for (_, unseen), (low, high), (least, most) in zip(folds, spreads, extremes, strict=True):
                s = (low + high) / 2 if shift else zero
                k = smoothing_scale(low, high, s, weight, alpha) if scale else one
                reach = float(((least - s) / k).min()), float(((most - s) / k).max())
                smooth = (unseen - s) / k
                for i, margin in enumerate(margins):
                    quantizer = static_input(reach[0] * margin, reach[1] * margin)
                    errors[i] += rounding_error(smooth, quantizer, energy * k.square())
            for margin, error in zip(margins, errors, strict=True):
                if best is None or error < best[0]:
                    best = error, alpha, tail, margin
    assert best is not None
    _, alpha, tail, margin = best
    low, high = channel_range(rows, tail)
    s = (low + high) / 2 if shift else zero
    return Smoothing(s, smoothing_scale(low, high, s, weight, alpha) if scale else one, alpha, tail, margin)


def unlike_halves(features: Tensor) -> Tensor:
    """Split images into two halves that differ as much as a plane can make them: features (n, D) -> (n,) bool.

    The cut is at the median of the first principal component.
    """
    centred = features - features.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    order = torch.argsort(centred @ axes[0], stable=True)
    half = torch.zeros(len(features), dtype=torch.bool)
    half[order[: len(features) // 2]] = True
    return half
