"""Choosing how a GEMM's input is quantized: shift and scale per channel (folded away by surgery) and the uint8 range.

Every choice is made by cross-validation between two unlike halves of the calibration images: statistics come from one
half, the error is counted on the other. A range that only fits its own images loses there, as it would in the field.

The error of a candidate is the squared error it causes at the GEMM's output, sum_k |W_k|^2 e_k^2 with e_k the error of
the input's channel k: rounding errors of different channels are uncorrelated, so cross terms average out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from edgekit.plan.quant import StaticInput
from edgekit.quantize.simulate import token_peak

LEVELS = 255

ALPHAS = (0.5, 0.65, 0.8, 1.0)  # SmoothQuant's migration strength: 1 moves all spread into the weights
SPREADS: tuple[float | Literal["mse"], ...] = (0.0, 5e-4, 1e-2, "mse")  # how a channel's spread is read, see below
FLOORS = (1.0, 0.15)  # least ratio of negative to positive reach that an unshifted input's channels are held to
CLIPPED = (0.5, 0.65, 0.8, 0.9, 1.0, 1.15)  # of the observed range; below 1 clips, above 1 leaves headroom
EXACT = (1.0,)  # the observed range as it is
CLIPS = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.22)  # shares of a channel's extreme tried by the spread "mse"


@dataclass(frozen=True)
class Smoothing:
    """x' = (x - shift) / scale per channel, and the share of the observed range of x' that the quantizer covers."""

    shift: Tensor  # (K,)
    scale: Tensor  # (K,) > 0
    alpha: float
    spread: float | Literal["mse"]
    floor: float
    margin: float


def static_input(low: float, high: float) -> StaticInput:
    """The uint8 quantizer that covers [low, high] and 0, with an exact zero (zero point an integer)."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    scale = float(torch.tensor(scale, dtype=torch.float32))  # what every file format will store
    return StaticInput(scale, int(min(max(round(-low / scale), 0), LEVELS)))


def quantile_reach(rows: Tensor, share: float = 1e-4) -> Tensor:
    """Range of x (T, K) that leaves out `share` of the values at either end: tensor (low, high)."""
    values = rows.flatten()
    cut = max(1, round(share * len(values)))
    return torch.stack((values.topk(cut, largest=False).values[-1], values.topk(cut).values[-1]))


def rounding_error(x: Tensor, quantizer: StaticInput, energy: Tensor, peak: Tensor | None = None) -> float:
    """Mean over rows of sum_k energy_k * (error of channel k)^2, for x (T, K) and energy (K,) = |W_k|^2.

    Where x are quotients of tokens and their `peak` (T, 1), the error is that of the tokens.
    """
    q = (x / quantizer.scale).round_().clamp_(-quantizer.zero_point, LEVELS - quantizer.zero_point)
    errors = q.mul_(quantizer.scale).sub_(x)
    if peak is not None:
        errors.mul_(peak)
    return float(errors.square_().mean(0) @ energy)


def channel_range(rows: Tensor, spread: float | Literal["mse"]) -> tuple[Tensor, Tensor]:
    """Range per channel (K,), (K,): a share of the rows cut off at both ends, or the one with the least squared error.

    "mse" weighs, for each channel alone, the rounding error of a 255-level quantizer over the range against what it
    clips: with white errors across channels this is the best scale whatever the weights are.
    """
    if spread == "mse":
        centre = (rows.amax(0) + rows.amin(0)) / 2
        distance = (rows - centre).abs_()
        extreme = distance.amax(0)
        clips = torch.tensor(CLIPS)
        errors = torch.stack(
            [
                (2 * clip * extreme / LEVELS).square() / 12
                + (distance - clip * extreme).clamp_(min=0).square_().mean(0)
                for clip in CLIPS
            ]
        )
        reach = extreme * clips[errors.argmin(0)]
        return centre - reach, centre + reach
    if spread == 0:
        return rows.amin(0), rows.amax(0)
    cut = max(1, round(spread * len(rows)))
    return rows.topk(cut, dim=0, largest=False).values[-1], rows.topk(cut, dim=0).values[-1]


def smoothing_scale(low: Tensor, high: Tensor, shift: Tensor, weight: Tensor, alpha: float, floor: float) -> Tensor:
    """s = reach^alpha / |W|^(1 - alpha) per channel, geometric mean 1 (SmoothQuant, arXiv 2211.10438, eq. 4).

    A channel's reach is at least its negative side / `floor`, so that channels that are hardly ever positive (as behind
    GELU) do not stretch the common range on the side where nobody needs it.
    """
    reach = torch.maximum(high - shift, (shift - low) / floor)
    reach = reach.clamp(min=float(reach.max()) * 1e-4 + 1e-12)
    peak = weight.abs().amax(0)
    peak = peak.clamp(min=float(peak.max()) * 1e-4 + 1e-12)
    scale = reach.pow(alpha) / peak.pow(1 - alpha)
    return scale / scale.log().mean().exp()


def weight_error(weight: Tensor, scale: Tensor, power: Tensor, levels: int) -> float:
    """Expected output error of rounding W * s per output channel, for an input power E[x'^2] (K,)."""
    step = (weight * scale).abs().amax(1) / levels  # (out,)
    return float(step.square().sum() / 12 * power.sum())


def choose_smoothing(
    rows: Tensor,
    half: Tensor,
    weight: Tensor,
    *,
    shift: bool,
    scale: bool,
    by_token: bool = False,
    margins: Iterable[float] = CLIPPED,
    weight_levels: int = 127,
    weight_gain: float = 0.25,
) -> Smoothing:
    """The shift, scale and clipping of a GEMM input with the least cross-validated output error.

    Args:
        rows: (T, K) sample of the input.
        half: (T,) bool, which of the two unlike halves of the images a row belongs to.
        weight: (out, K) of the GEMM that reads it.
        shift: whether a shift can be folded away before this GEMM.
        scale: whether a scale can.
        by_token: each token will be divided by its peak before it is quantized.
        margins: shares of the observed range to try.
        weight_levels: largest integer weight; what scaling does to the weights' rounding is counted too,
        weight_gain: times this factor (GPTQ leaves about a quarter of plain rounding's error).
    """
    energy = weight.square().sum(0)
    zero, one = torch.zeros(rows.shape[1]), torch.ones(rows.shape[1])
    margins = tuple(margins)
    best: tuple[float, float, float | Literal["mse"], float, float] | None = None
    folds = [(rows[fold], rows[~fold]) for fold in (half, ~half)]
    extremes = [channel_range(seen, 0.0) for seen, _ in folds]
    for spread in SPREADS if scale else (0.0,):
        ranges = [channel_range(seen, spread) for seen, _ in folds]
        for floor, alpha in product((1.0,) if shift or not scale else FLOORS, ALPHAS if scale else (0.0,)):
            errors = [0.0] * len(margins)
            for (seen, unseen), (low, high), (least, most) in zip(folds, ranges, extremes, strict=True):
                s = (low + high) / 2 if shift else zero
                k = smoothing_scale(low, high, s, weight, alpha, floor) if scale else one
                reach = ((least - s) / k).min(), ((most - s) / k).max()
                smooth, peak = (unseen - s) / k, None
                fixed = weight_gain * weight_error(weight, k, smooth.square().mean(0), weight_levels)
                if by_token:
                    reach, peak = quotients((seen - s) / k).aminmax(), token_peak(smooth)
                    smooth /= peak
                for i, margin in enumerate(margins):
                    quantizer = static_input(float(reach[0]) * margin, float(reach[1]) * margin)
                    errors[i] += fixed + rounding_error(smooth, quantizer, energy * k.square(), peak)
            for margin, error in zip(margins, errors, strict=True):
                if best is None or error < best[0]:
                    best = error, alpha, spread, floor, margin
    assert best is not None
    _, alpha, spread, floor, margin = best
    low, high = channel_range(rows, spread)
    s = (low + high) / 2 if shift else zero
    k = smoothing_scale(low, high, s, weight, alpha, floor) if scale else one
    return Smoothing(s, k, alpha, spread, floor, margin)


def quotients(rows: Tensor) -> Tensor:
    """Tokens (T, K) divided by their peaks."""
    return rows / token_peak(rows)


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
