"""Numbers as a reader wants them: few digits, true minus and multiplication signs, and a dash for what is not known."""

from __future__ import annotations

from edgekit.host import Host
from edgekit.manifest import ArtifactRow, TimingRun
from edgekit.measure.latency import Speedup
from edgekit.measure.noise import MAX_LOAD
from edgekit.measure.ratio import ratio, ratio_range
from edgekit.measure.statistics import MAX_DB, Rate

__all__ = ["ratio_range"]  # templates see this module as `n`

DASH = "–"
_THIN = "\u202f"  # narrow no-break space, between a number and its unit


def milliseconds(value: float | None) -> str:
    """`7.42 ms`, `41.3 ms`, `107 ms`, `1.54 s`."""
    if value is None:
        return DASH
    if value >= 1000:
        return f"{value / 1000:.2f}{_THIN}s"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{_THIN}ms"


def megabytes(value: float | None) -> str:
    """`0.42 MB`, `22.7 MB`, `312 MB`, `4.55 GB`."""
    if value is None:
        return DASH
    if value >= 1000:
        return f"{value / 1000:.2f}{_THIN}GB"
    return f"{value:.{2 if value < 1 else 1 if value < 100 else 0}f}{_THIN}MB"


def cosine(value: float | None) -> str:
    """Four digits, or as many as show how far it is from 1: `0.9874`, `0.9997`, `0.999998`."""
    if value is None:
        return DASH
    for digits in (4, 5, 6):
        if round(value, digits) < 1:
            return f"{value:.{digits}f}"
    return "1.000000" if value < 1 else "1"


def decibels(value: float | None) -> str:
    """`27.8 dB`; identical features have no noise to compare with: `exact`."""
    if value is None:
        return DASH
    return "exact" if value >= MAX_DB else f"{value:.1f}{_THIN}dB".replace("-", "−")


def speed(speedup: Speedup | None) -> str:
    """The speed relative to FP32, with the digits that its interval carries: `2.6×`."""
    return DASH if speedup is None else ratio(speedup.value, speedup.low, speedup.high)


def row_speed(row: ArtifactRow) -> str:
    """`speed` of a row of the manifest."""
    latency = row.latency or {}
    value, low, high = (latency.get(key) for key in ("speedup_vs_fp32", "speedup_low", "speedup_high"))
    return DASH if value is None else ratio(value, low, high)


def timing(run: TimingRun | None) -> str:
    """Where, how and when latencies were measured; of a run that none records, so much.

    `AMD EPYC, 2 cores, avx2, 2 threads, 2026-11-29 14:03 UTC`.
    """
    if run is None:
        return "an unrecorded run"
    threads = f"{run.threads} thread{'s' * (run.threads > 1)}" if run.threads else "threads as each runtime chooses"
    busy = f", host busy ({run.busy:.0%} of its processor time was others')" if run.busy > MAX_LOAD else ""
    return f"{Host.model_validate(run.host)}, {threads}, {run.date[:10]} {run.date[11:16]} UTC{busy}"


def percent(rate: Rate | None) -> str:
    """`96.9 %`, `100 %`, or a dash where the rate was refused."""
    if rate is None or rate.value is None:
        return DASH
    return f"{100 * rate.value:.1f}{_THIN}%".replace(".0" + _THIN, _THIN)


def points(value: float) -> str:
    """Points of accuracy: `0.4`, `−1.2`."""
    return f"{100 * value:.1f}".replace("-0.0", "0.0").replace("-", "−")


def percent_range(rate: Rate | None) -> str:
    """95 % interval of a rate, `84 to 99 %`, or the reason why there is none."""
    if rate is None:
        return ""
    if rate.value is None or rate.low is None or rate.high is None:
        return rate.reason
    return f"{100 * rate.low:.0f} to {100 * rate.high:.0f}{_THIN}%"


def small(value: float | None) -> str:
    """A small quantity with two significant digits: `0.0031`."""
    return DASH if value is None else f"{value:.2g}"
