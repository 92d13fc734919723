"""Choosing how a GEMM's input is quantized: shift and scale per channel (folded away by surgery) and the uint8 range.

Every choice is made by cross-validation between two unlike folds of the calibration images: statistics come from one
fold, the error is counted on the other. A range that only fits its own images loses there, as it would in the field.

The error of a candidate is the squared error it causes at the GEMM's output, sum_k |W_k|^2 e_k^2 with e_k the error of
the input's channel k: rounding errors of different channels are uncorrelated, so cross terms average out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from edgekit.plan.quant import StaticInput
from edgekit.quantization.simulate import token_peak

LEVELS = 255

Spread = float | Literal["mse"]

ALPHAS = (0.5, 0.65, 0.8, 1.0)  # SmoothQuant's migration strength: 1 moves all spread into the weights
SPREADS: tuple[Spread, ...] = (0.0, 5e-4, 1e-2, "mse")  # how a channel's spread is read, see below
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
    spread: Spread
    floor: float
    margin: float = 1.0


@dataclass(frozen=True)
class SmoothingOptions:
    """The search space for the smoothing of a GEMM input, and the weights of its score."""

    shift: bool  # whether a shift can be folded away before this GEMM
    scale: bool  # whether a scale can
    by_token: bool = False  # each token will be divided by its abs-max before it is quantized
    margins: tuple[float, ...] = CLIPPED  # shares of the observed range to try
    weight_levels: int = 127  # qmax of the weights
    weight_gain: float = (
        0.25  # weight of the weight-rounding term; 0.25 is GPTQ's typical gain over rounding to nearest
    )


class _Fold(NamedTuple):
    """One fold of a cross-validation: rows that statistics come from, their extremes, and rows that judge."""

    seen: Tensor
    unseen: Tensor
    least: Tensor
    most: Tensor


def static_input(low: float, high: float) -> StaticInput:
    """The uint8 quantizer that covers [low, high] and 0, with an exact zero (zero point an integer)."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    scale = float(torch.tensor(scale, dtype=torch.float32))  # what every file format will store
    return StaticInput(scale, int(min(max(round(-low / scale), 0), LEVELS)))


def quantile_reach(rows: Tensor) -> Tensor:
    """Range of x (T, K) that leaves out 1 in 10,000 of the values at either end: tensor (low, high)."""
    values = rows.flatten()
    cut = max(1, round(1e-4 * len(values)))
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


def channel_range(rows: Tensor, spread: Spread) -> tuple[Tensor, Tensor]:
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


def choose_smoothing(rows: Tensor, fold: Tensor, weight: Tensor, options: SmoothingOptions) -> Smoothing:
    """The shift, scale and clipping of a GEMM input with the least cross-validated output error.

    Args:
        rows: (T, K) sample of the input.
        fold: (T,) bool, the cross-validation fold that a row's image belongs to.
        weight: (out, K) of the GEMM that reads it.
        options: what may be done, and how it is judged.
    """
    folds = [_Fold(rows[part], rows[~part], *channel_range(rows[part], 0.0)) for part in (fold, ~fold)]
    energy = weight.square().sum(0)
    best, least = None, 0.0
    for candidates in _candidates(folds, weight, options):
        of_folds = [_errors(*pair, weight, energy, options) for pair in zip(folds, candidates, strict=True)]
        for margin, *errors in zip(options.margins, *of_folds, strict=True):
            if best is None or sum(errors) < least:
                best, least = replace(candidates[0], margin=margin), sum(errors)
    assert best is not None
    whole = _smoothing(channel_range(rows, best.spread), weight, options, best.alpha, best.spread, best.floor)
    return replace(whole, margin=best.margin)


def _candidates(folds: Sequence[_Fold], weight: Tensor, options: SmoothingOptions) -> Iterator[list[Smoothing]]:
    """Every smoothing to try, as each fold's statistics make it."""
    floors = FLOORS if options.scale and not options.shift else (1.0,)
    for spread in SPREADS if options.scale else (0.0,):
        ranges = [channel_range(fold.seen, spread) for fold in folds]
        for floor, alpha in product(floors, ALPHAS if options.scale else (0.0,)):
            yield [_smoothing(each, weight, options, alpha, spread, floor) for each in ranges]


def _smoothing(
    bounds: tuple[Tensor, Tensor], weight: Tensor, options: SmoothingOptions, alpha: float, spread: Spread, floor: float
) -> Smoothing:
    """The smoothing of an input whose channels have these ranges."""
    low, high = bounds
    shift = (low + high) / 2 if options.shift else torch.zeros_like(low)
    scale = smoothing_scale(low, high, shift, weight, alpha, floor) if options.scale else torch.ones_like(low)
    return Smoothing(shift, scale, alpha, spread, floor)


def _errors(
    fold: _Fold, smoothing: Smoothing, weight: Tensor, energy: Tensor, options: SmoothingOptions
) -> list[float]:
    """Output error on the rows of a fold that judge, for each margin."""
    shift, scale = smoothing.shift, smoothing.scale
    reach = ((fold.least - shift) / scale).min(), ((fold.most - shift) / scale).max()
    smooth, peak = (fold.unseen - shift) / scale, None
    fixed = options.weight_gain * weight_error(weight, scale, smooth.square().mean(0), options.weight_levels)
    if options.by_token:
        reach, peak = quotients((fold.seen - shift) / scale).aminmax(), token_peak(smooth)
        smooth /= peak
    quantizers = (static_input(float(reach[0]) * margin, float(reach[1]) * margin) for margin in options.margins)
    return [fixed + rounding_error(smooth, quantizer, energy * scale.square(), peak) for quantizer in quantizers]


def quotients(rows: Tensor) -> Tensor:
    """Tokens (T, K) divided by their abs-max."""
    return rows / token_peak(rows)


def unlike_folds(features: Tensor) -> Tensor:
    """Cross-validation folds (n,) bool of images, split at the median of the first principal component.

    The two folds of the features (n, D) differ as much as a plane can make them.
    """
    centred = features - features.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    order = torch.argsort(centred @ axes[0], stable=True)
    fold = torch.zeros(len(features), dtype=torch.bool)
    fold[order[: len(features) // 2]] = True
    return fold
