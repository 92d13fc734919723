"""Host noise: whether timings of this run can be compared with those of another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from pydantic import AliasChoices, Field

from edgekit.artifact import Frozen

MAX_SPREAD = 1.3  # 90th percentile over median
MAX_DRIFT = 1.25  # slowest over fastest round median
MAX_LOAD = 0.15  # of the processor time, used by other processes while the measurement ran


class Noise(Frozen):
    """Unsteadiness of a measurement; `reasons` is empty when it was steady."""

    spread: float  # p90 / p50 over all samples
    drift: float  # slowest / fastest round, by their medians
    load: float = Field(validation_alias=AliasChoices("load", "load_before"))  # 0..1, see `OtherWork`
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, times_ms: Sequence[Sequence[float]], load: float) -> Noise:
        """Judge the times (rounds, iterations) of one target."""
        flat = np.concatenate(times_ms)
        medians = [float(np.median(turn)) for turn in times_ms]
        spread, drift = float(np.quantile(flat, 0.9) / np.median(flat)), max(medians) / min(medians)
        reasons = []
        if spread > MAX_SPREAD:
            reasons.append(f"a tenth of the runs took {spread:.2f} times the median or longer")
        if drift > MAX_DRIFT:
            reasons.append(f"the slowest round took {drift:.2f} times as long as the fastest")
        if load > MAX_LOAD:
            reasons.append(f"the host was busy: other work took {load:.0%} of its processor time")
        return cls(spread=round(spread, 3), drift=round(drift, 3), load=round(load, 2), reasons=tuple(reasons))


class OtherWork:
    """The share of processor time that other processes take between two moments, on the cores this one may use.

    The load average would not do: it holds the minute before, in which a build itself has kept every core busy.
    """

    def __init__(self, own: Iterable[int]) -> None:
        """Start counting; the process ids `own` are not other work, nor is this process."""
        self._own = {*own, os.getpid()}
        self._began = self._now()

    def share(self) -> float:
        """0 (idle) .. 1 since the beginning; 0 where the system counts no processor time."""
        busy, own, at = (now - before for now, before in zip(self._now(), self._began, strict=True))
        cores = len(_cores())
        return min(1.0, max(0.0, busy - own) / (at * cores)) if at > 0 else 0.0

    def _now(self) -> tuple[float, float, float]:
        """Seconds of processor time spent by everybody and by our own processes, and the time."""
        import psutil

        per_core = psutil.cpu_times(percpu=True)
        used = [sum(times) - times.idle - _waiting(times) for i, times in enumerate(per_core) if i in _cores()]
        own = 0.0
        for process in self._own:
            with suppress(psutil.Error):
                own += sum(psutil.Process(process).cpu_times()[:2])  # user and system
        return sum(used), own, time.monotonic()


def _waiting(times: Any) -> float:
    """Seconds that are no work, or that Linux counts twice: guests' time is in `user` already."""
    return sum(getattr(times, name, 0.0) for name in ("iowait", "guest", "guest_nice"))


def _cores() -> set[int]:
    """Numbers of the cores this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
