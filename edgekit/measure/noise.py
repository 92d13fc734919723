"""Whether a host was quiet enough for its timings to be compared with those of another run."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from edgekit.artifact import Frozen

MAX_SPREAD = 1.3  # 90th percentile over median
MAX_DRIFT = 1.25  # slowest over fastest round median
MAX_LOAD = 0.5  # running processes per core before the measurement began


class Noise(Frozen):
    """How unsteady a measurement was; `reasons` is empty when it was steady."""

    spread: float  # p90 / p50 over all samples
    drift: float  # slowest / fastest round, by their medians
    load_before: float  # runnable processes per core, mean of the minute before
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, times_ms: Sequence[Sequence[float]], load_before: float) -> Noise:
        """Judge the times (rounds, iterations) of one target."""
        flat = np.concatenate(times_ms)
        medians = [float(np.median(turn)) for turn in times_ms]
        spread, drift = float(np.quantile(flat, 0.9) / np.median(flat)), max(medians) / min(medians)
        reasons = []
        if spread > MAX_SPREAD:
            reasons.append(f"a tenth of the runs took {spread:.2f} times the median or longer")
        if drift > MAX_DRIFT:
            reasons.append(f"the slowest round took {drift:.2f} times as long as the fastest")
        if load_before > MAX_LOAD:
            reasons.append(f"the host was busy before: {load_before:.1f} running processes per core")
        return cls(
            spread=round(spread, 3), drift=round(drift, 3), load_before=round(load_before, 2), reasons=tuple(reasons)
        )


def cpu_load() -> float:
    """Runnable processes per core over the last minute; 0 where the system does not say."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (OSError, AttributeError):
        return 0.0
