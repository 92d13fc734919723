"""Estimates that carry their doubt: means with bootstrap intervals, and rates that are refused when n is small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from edgekit.artifact import Frozen

MIN_IMAGES_FOR_RATE = 20  # below this one image moves a rate by more than 5 points
MIN_SAMPLES_FOR_P1 = 100  # below this the first percentile is only another name for the minimum
MAX_DB = 150.0  # about the resolution of float32: what identical features are said to reach
CONFIDENCE = 0.95
_RESAMPLES = 2000
_PICKS = 2**21  # cases drawn at once
_Z = 1.959964  # of a 95 % normal interval

Cosine = Annotated[float, Field(ge=-1.000001, le=1.000001)]


class Estimate(Frozen):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class Spread(Frozen):
    """A cosine over many vectors: the mean with its 95 % interval, and the tail. `p1` is None below 100 vectors."""

    mean: Cosine
    low: Cosine
    high: Cosine
    p1: Cosine | None
    min: Cosine


class Rate(Frozen):
    """A share 0..1 of n cases with its 95 % interval, or None and the reason why no share is given.

    Where cases come in groups (crops of one photograph), the interval is that of as many cases as there are groups.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    reason: str = ""


def group_numbers(groups: Sequence[str], n: int) -> np.ndarray:
    """Group number (n,) of each of n cases, in order of first appearance; without `groups` each case is its own.

    Raises:
        ValueError: the groups are not those of n cases.
    """
    if not groups:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups of {n} cases")
    places = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return np.array([places[group] for group in groups], np.int64)


def bootstrap_mean(values: np.ndarray, *, groups: Sequence[str] = (), seed: int = 0) -> Estimate:
    """Mean of `values` (n,) with its percentile bootstrap interval (Efron 1979), 2000 resamples of whole groups."""
    return bootstrap_ratio(values, np.ones(len(values)), groups=groups, seed=seed)


def bootstrap_ratio(
    numerators: np.ndarray, denominators: np.ndarray, *, groups: Sequence[str] = (), seed: int = 0
) -> Estimate:
    """sum(numerators) / sum(denominators) over (n,) cases, with the interval of the cluster bootstrap.

    Whole groups are drawn with replacement, each with all of its cases (Davison and Hinkley 1997, section 3.8): crops
    of one photograph are not independent of each other. Without `groups` whole cases are drawn.
    """
    numbers = group_numbers(groups, len(numerators))
    top, bottom = (np.bincount(numbers, np.asarray(values, np.float64)) for values in (numerators, denominators))
    n = len(top)
    generator, resampled, some = np.random.default_rng(seed), np.empty(_RESAMPLES), max(1, _PICKS // n)
    for start in range(0, _RESAMPLES, some):  # the same draws at once would be 16 GB for a million cases
        picks = generator.integers(0, n, (min(some, _RESAMPLES - start), n))
        resampled[start : start + some] = top[picks].sum(axis=1) / bottom[picks].sum(axis=1)
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=float(top.sum() / bottom.sum()), low=float(low), high=float(high))


def bootstrap_counts(groups: Sequence[str], n: int, *, seed: int = 0) -> np.ndarray:
    """Draws (2000, n) of each of n cases in each of 2000 bootstrap resamples of whole groups."""
    numbers = group_numbers(groups, n)
    count = int(numbers.max()) + 1
    drawn: np.ndarray = np.random.default_rng(seed).multinomial(count, [1 / count] * count, _RESAMPLES)
    return drawn[:, numbers]


def spread(cosines: np.ndarray, *, groups: Sequence[str] = (), seed: int = 0) -> Spread:
    """Summary of cosines (n,) or (n, tokens); the interval of the mean resamples groups of images, not tokens."""
    per_image = cosines if cosines.ndim == 1 else cosines.mean(axis=1)
    mean = bootstrap_mean(per_image, groups=groups, seed=seed)
    p1 = float(np.quantile(cosines, 0.01)) if cosines.size >= MIN_SAMPLES_FOR_P1 else None
    return Spread(mean=mean.value, low=mean.low, high=mean.high, p1=p1, min=float(cosines.min()))


def rate(hits: np.ndarray, *, groups: Sequence[str] = (), seed: int = 0, least: int = MIN_IMAGES_FOR_RATE) -> Rate:
    """Mean of `hits` (n,), each 0..1, as a share.

    Yes/no hits get Wilson's interval (1927), never an empty one, of as many cases as there are groups: within a group
    they are taken to be alike, since a bootstrap of nothing but hits would have no width.
    """
    n = len(hits)
    if n < least:
        return Rate(value=None, n=n, reason=f"{n} images are too few for a percentage (at least {least} are needed)")
    values = np.asarray(hits, np.float64)
    if not np.isin(values, (0.0, 1.0)).all():
        mean = bootstrap_mean(values, groups=groups, seed=seed)
        return Rate(value=mean.value, low=mean.low, high=mean.high, n=n)
    share, independent = float(values.mean()), len(set(groups)) or n
    centre = (share + _Z**2 / (2 * independent)) / (1 + _Z**2 / independent)
    half = math.sqrt(share * (1 - share) / independent + _Z**2 / (4 * independent**2))
    half *= _Z / (1 + _Z**2 / independent)
    return Rate(value=share, low=max(0.0, centre - half), high=min(1.0, centre + half), n=n)


def decibel(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies, at most 150 dB (equal to the last float32 bit)."""
    least = 10 ** (-MAX_DB / 10)
    return MAX_DB if noise <= least * signal else 10 * math.log10(max(signal / noise, least))
