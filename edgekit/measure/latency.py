"""Latency of several artifacts measured fairly: own processes, turns interleaved with idle gaps, doubt stated."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifact import Artifact, Frozen
from edgekit.errors import EdgekitError
from edgekit.host import describe_host
from edgekit.manifest import TimingRun
from edgekit.measure.energy import EnergyCounter
from edgekit.measure.noise import Noise, OtherWork
from edgekit.measure.statistics import Estimate, bootstrap_mean
from edgekit.measure.worker import Target, Timed, Worker

MIN_SAMPLES_FOR_P99 = 100
Notify = Callable[[str], None]


class Speedup(Frozen):
    """Speed relative to `reference`, paired round by round: geometric mean with its 95 % interval."""

    reference: str
    value: float
    low: float
    high: float


class LatencyReport(Frozen):
    """Latency of one artifact on this host. Times in ms per call of `batch` images; memory in MB (10^6 bytes).

    `p99_ms` is None below 100 samples. `peak_rss_mb` is of the artifact's own process, interpreter and runtime included
    (`base_rss_mb` before anything was loaded). `energy_mj` per call is None where no counter is readable.
    """

    name: str
    batch: int
    image_size: tuple[int, int]  # (height, width) in pixels
    threads: int | None  # None: the runtime's own choice
    rounds: int
    times_ms: tuple[tuple[float, ...], ...]  # per round
    p50_ms: float
    p90_ms: float
    p99_ms: float | None
    min_ms: float
    mean_ms: float
    load_ms: float
    first_ms: float
    throughput_ips: float  # images per second
    peak_rss_mb: float
    base_rss_mb: float
    energy_mj: float | None
    noise: Noise
    speedup: Speedup | None  # None without a reference in the same run
    run: TimingRun | None = None  # reports of one run compare with each other; None of earlier versions

    @property
    def stable(self) -> bool:
        """False when other work on the host makes these numbers unfit to compare with another run's."""
        return not self.noise.reasons

    def summary(self) -> dict[str, Any]:
        """The few numbers that go into the manifest row."""
        speedup = self.speedup
        numbers: dict[str, float | int | None] = {
            "p50_ms": round(self.p50_ms, 3),
            "p90_ms": round(self.p90_ms, 3),
            "p99_ms": None if self.p99_ms is None else round(self.p99_ms, 3),
            "min_ms": round(self.min_ms, 3),
            "load_ms": round(self.load_ms, 1),
            "first_ms": round(self.first_ms, 1),
            "throughput_ips": round(self.throughput_ips, 2),
            "peak_rss_mb": round(self.peak_rss_mb, 1),
            "threads": self.threads,
            "batch": self.batch,
            "rounds": self.rounds,
            "speedup_vs_fp32": None if speedup is None else round(speedup.value, 3),
            "speedup_low": None if speedup is None else round(speedup.low, 3),
            "speedup_high": None if speedup is None else round(speedup.high, 3),
            "energy_mj": None if self.energy_mj is None else round(self.energy_mj, 2),
        }
        return {**numbers, "stable": self.stable, "run": self.run.id if self.run else None}


class LatencyRun(Frozen):
    """One interleaved measurement of several artifacts; `failures` says of the others why they did not run."""

    run: TimingRun | None = None  # None where nothing was to be measured
    reports: dict[str, LatencyReport]
    failures: dict[str, str]


@dataclass(frozen=True)
class TimingOptions:
    """Rounds, iterations and idle times of a latency measurement."""

    rounds: int = 10  # at least 3, else there is nothing to pair
    iterations: int = 10  # inferences per target and round; fewer when they would not fit in the budget
    warmup: int = 3  # untimed inferences at the start
    gap_s: float = 0.2  # idle seconds before each turn
    budget_s: float = 12.0  # seconds of inference per target over all rounds
    seed: int = 0  # of the order of turns and of the intervals


def measure_latency(
    targets: Sequence[Artifact | Target],
    pixel_values: np.ndarray,
    timing: TimingOptions = TimingOptions(),
    *,
    threads: int | None = None,
    reference: str | None = None,
    notify: Notify | None = None,
) -> LatencyRun:
    """Load every target in its own process, then time them in turn, round after round.

    Every round visits all targets in a fresh random order, so that a slow minute of the host hits all of them alike;
    the idle gap before each turn lets the threads of the runtime before it fall asleep.

    Args:
        targets: artifacts, or anything a worker can load.
        pixel_values: one batch (B, 3, H, W) float32.
        timing: how often and how long each target is timed.
        threads: per runtime; None lets each choose.
        reference: name of the target that speedups refer to.
        notify: told what happens, in one line.

    Raises:
        EdgekitError: the reference is not among the targets.
    """
    wanted = [target if isinstance(target, Target) else Target.of(target) for target in targets]
    if reference is not None and reference not in {target.name for target in wanted}:
        raise EdgekitError(f"the reference {reference!r} is not among the measured artifacts")
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-")))
        np.save(folder / "pixels.npy", pixel_values)
        workers: dict[str, Worker] = {}
        counts: dict[str, int] = {}
        for target in wanted:
            if notify:
                notify(f"load {target.name}")
            try:
                worker = stack.enter_context(Worker(target, folder / "pixels.npy", threads))
                usual = (
                    float(np.median(worker.run(timing.warmup, untimed=1))) if timing.warmup else worker.start.first_ms
                )
            except EdgekitError as error:
                failures[target.name] = error.why or error.what
                continue
            workers[target.name] = worker
            counts[target.name] = int(np.clip(timing.budget_s * 1000 / (timing.rounds * usual), 1, timing.iterations))
        other = OtherWork(worker.pid for worker in workers.values())
        times, energy = interleave(
            workers, counts, rounds=timing.rounds, gap_s=timing.gap_s, seed=timing.seed, notify=notify
        )
        load = other.share()
        run = _run_record(threads, pixel_values, load)
        reports = {}
        for name, worker in workers.items():
            flat = np.concatenate(times[name])
            p50, p90, p99 = (float(p) for p in np.quantile(flat, (0.5, 0.9, 0.99)))
            reports[name] = LatencyReport(
                name=name,
                batch=pixel_values.shape[0],
                image_size=(pixel_values.shape[-2], pixel_values.shape[-1]),
                threads=threads,
                rounds=timing.rounds,
                times_ms=tuple(tuple(round(t, 4) for t in turn) for turn in times[name]),
                p50_ms=p50,
                p90_ms=p90,
                p99_ms=p99 if len(flat) >= MIN_SAMPLES_FOR_P99 else None,
                min_ms=float(flat.min()),
                mean_ms=float(flat.mean()),
                throughput_ips=1000 * len(pixel_values) / p50,
                load_ms=worker.start.load_ms,
                first_ms=worker.start.first_ms,
                base_rss_mb=worker.start.base_rss_mb,
                peak_rss_mb=worker.peak_rss_mb(),
                energy_mj=energy[name],
                noise=Noise.of(times[name], load),
                speedup=None
                if reference is None or reference not in times
                else paired_speedup(times[reference], times[name], reference, seed=timing.seed),
                run=run,
            )
    return LatencyRun(run=run, reports=reports, failures=failures)


def _run_record(threads: int | None, pixel_values: np.ndarray, load: float) -> TimingRun:
    return TimingRun(
        id=uuid.uuid4().hex[:12],
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        threads=threads,
        batch=pixel_values.shape[0],
        image_size=(pixel_values.shape[-2], pixel_values.shape[-1]),
        busy=round(load, 2),
        host=describe_host().model_dump(mode="json"),
    )


def interleave(
    targets: Mapping[str, Timed],
    iterations: Mapping[str, int],
    *,
    rounds: int,
    gap_s: float,
    seed: int = 0,
    notify: Notify | None = None,
) -> tuple[dict[str, list[list[float]]], dict[str, float | None]]:
    """Times in ms per target and round, and mJ per call where an energy counter is readable (else None)."""
    order = np.random.default_rng(seed)
    counter = EnergyCounter()
    times: dict[str, list[list[float]]] = {name: [] for name in targets}
    joules: dict[str, float] = dict.fromkeys(targets, 0.0)
    for i in range(rounds):
        if notify:
            notify(f"round {i + 1} of {rounds}")
        for name in order.permutation(list(targets)).tolist():
            time.sleep(gap_s)
            targets[name].run(0, untimed=1)  # caches and clock speed belong to the turn before
            before = counter.read()
            times[name].append(targets[name].run(iterations[name]))
            joules[name] += counter.since(before)
    calls = {name: rounds * iterations[name] for name in targets}
    return times, {name: 1000 * joules[name] / calls[name] if counter.readable else None for name in targets}


def paired_speedup(
    reference: Sequence[Sequence[float]], own: Sequence[Sequence[float]], name: str, *, seed: int = 0
) -> Speedup:
    """Ratio of the two round medians, round by round: a host that slows down for a while slows both sides of it."""
    logs = np.log([np.median(a) / np.median(b) for a, b in zip(reference, own, strict=True)])
    mean: Estimate = bootstrap_mean(logs, seed=seed)
    return Speedup(
        reference=name, value=float(np.exp(mean.value)), low=float(np.exp(mean.low)), high=float(np.exp(mean.high))
    )
