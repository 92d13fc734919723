"""The benchmark matrix: model x image size x format x precision x engine, ours and the other tools', x threads.

    python -m benchmarks.run --suite quick             # ViT-S at 224 px on two threads
    python -m benchmarks.run --suite full              # 224, 448 and 518 px, on one thread and on two
    python -m benchmarks.run --suite full --dry-run    # what is left to do, and about how long it takes
    python -m benchmarks.run --suite full --prepare    # only the models and their drift: timing waits for a quiet hour
    python -m benchmarks.run --suite full --older-cpu  # every runtime without AVX-512 and VNNI (see older_cpu.py)

Every model runs in a process of its own; all of one size and number of threads are timed in turns, with idle gaps, as
one group. Stop it at any time: finished groups are kept in the host's CSV, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.support import matrix, older_cpu, photos
from benchmarks.support.candidates import FUSED_FORMS, Candidate, candidates_of, fused_form
from benchmarks.support.peers import PEERS
from edgekit.host import describe_host
from edgekit.measure.latency import LatencyReport, LatencyRun, TimingOptions, measure_latency
from edgekit.models import zoo
from edgekit.pipeline import jobs_of
from edgekit.recipe import Recipe

REFERENCE = "onnx/fp32"
GAP_S = 0.2
LOAD_S = 6.0  # of one worker: start, load, warm up
LEAST_PHOTOS = 8


@dataclass(frozen=True)
class Suite:
    """What is measured, and how long: `budget_s` seconds of inference per row."""

    sizes: tuple[int, ...]
    threads: tuple[int, ...]
    rounds: int
    budget_s: float
    calibration: int  # photographs at 224 px; larger ones are fewer, for the same work
    judges: int

    def photographs(self, size: int) -> tuple[int, int]:
        """How many calibrate and how many judge at a size."""
        share = (224 / size) ** 2
        return max(LEAST_PHOTOS, round(self.calibration * share)), max(LEAST_PHOTOS, round(self.judges * share))


SUITES = {
    "quick": Suite(sizes=(224,), threads=(2,), rounds=5, budget_s=2.0, calibration=16, judges=24),
    "full": Suite(sizes=(224, 448, 518), threads=(1, 2), rounds=10, budget_s=8.0, calibration=32, judges=24),
}


@dataclass(frozen=True)
class Group:
    """One model at one size; `threads` holds the numbers of threads that are still to be timed."""

    model: str
    size: int
    threads: tuple[int, ...]


def timed(candidates: list[Candidate], suite: Suite, threads: int) -> list[matrix.Row]:
    """The rows of one group, all timed in turns."""
    targets = [candidate.target for candidate in candidates if candidate.target]
    size = candidates[0].row.image_size
    pixels = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    names = {target.name for target in targets}
    run = measure_latency(
        targets,
        pixels,
        TimingOptions(rounds=suite.rounds, gap_s=GAP_S, budget_s=suite.budget_s),
        threads=threads,
        reference=REFERENCE if REFERENCE in names else None,
        notify=lambda text: print(f"{size} px, {threads} threads: {text}", file=sys.stderr),
    )
    return [_with_times(candidate.row, run, threads) for candidate in candidates]


def _with_times(row: matrix.Row, run: LatencyRun, threads: int) -> matrix.Row:
    report: LatencyReport | None = run.reports.get(row.artifact)
    if report is None:
        why = run.failures.get(row.artifact)
        return replace(row, threads=threads, **({"status": "failed", "reason": why} if why else {}))
    speedup = report.speedup
    return replace(
        row,
        threads=threads,
        p50_ms=round(report.p50_ms, 3),
        p90_ms=round(report.p90_ms, 3),
        min_ms=round(report.min_ms, 3),
        calls=sum(map(len, report.times_ms)),
        rounds=report.rounds,
        speedup=round(speedup.value, 3) if speedup else None,
        speedup_low=round(speedup.low, 3) if speedup else None,
        speedup_high=round(speedup.high, 3) if speedup else None,
        load_ms=round(report.load_ms, 1),
        peak_rss_mb=round(report.peak_rss_mb, 1),
        unstable="; ".join(report.noise.reasons),
        noise_spread=report.noise.spread,
        noise_drift=report.noise.drift,
        noise_load=report.noise.load,
    )


def main() -> None:
    """Run what is left of a suite."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=tuple(SUITES), default="quick")
    parser.add_argument("--model", default="demo", help="names of `edgekit models` or checkpoints, with commas")
    parser.add_argument("--image-size", default="", help="other sizes than the suite's, with commas")
    parser.add_argument("--threads", default="", help="other numbers of threads, with commas")
    parser.add_argument("--rounds", type=int, help="another number of turns than the suite's")
    parser.add_argument("--budget", type=float, help="other seconds of inference per row than the suite's")
    parser.add_argument(
        "--format", default="onnx,openvino,tflite,edgekit", help="coreml adds rows of drift without times"
    )
    parser.add_argument("--work", type=Path, default=Path("build/benchmarks"), help="models and plans are kept here")
    parser.add_argument("--csv", type=Path, help="instead of the host's file in benchmarks/results")
    parser.add_argument("--dry-run", action="store_true", help="say what is left to do, and how long it takes")
    parser.add_argument("--prepare", action="store_true", help="make the models and measure their drift, time nothing")
    parser.add_argument("--older-cpu", action="store_true", help="hide AVX-512 from all runtimes; x86 on Linux")
    parser.add_argument("--forms", default=",".join(FUSED_FORMS), help="of --older-cpu: which fused files it adds")
    arguments = parser.parse_args()
    if arguments.older_cpu:
        older_cpu.begin_again(arguments.work.parent / "older_cpu")
    suite, path = SUITES[arguments.suite], arguments.csv or matrix.path_of(describe_host())
    suite = replace(suite, rounds=arguments.rounds or suite.rounds, budget_s=arguments.budget or suite.budget_s)
    done = {
        (row.model, row.image_size, row.threads) for row in matrix.read(path) if row.suite in (arguments.suite, "full")
    }
    work = arguments.work.resolve()
    recipes = {}
    for model in arguments.model.split(","):
        for size in _numbers(arguments.image_size) or suite.sizes:
            threads = _numbers(arguments.threads) or suite.threads
            threads = tuple(count for count in threads if (_name(model), size, count) not in done)
            if threads:
                recipes[Group(model, size, threads)] = _recipe(model, size, arguments.format, suite, work)
    _foretell(recipes, suite)
    if arguments.dry_run:
        return
    root = str(Path(__file__).parents[1])  # where worker processes find the loaders of peers
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    if recipes and not photos.stamps_missing() and not (work / "photos").exists():
        photos.prepare(work / "photos")
    for group, recipe in recipes.items():
        folder = work / f"{Path(group.model).stem}-{arguments.suite}-{group.size}{'-older' * arguments.older_cpu}"
        candidates = candidates_of(recipe, folder, arguments.suite)
        for form in filter(None, arguments.forms.split(",") if arguments.older_cpu else ()):
            candidates += fused_form(recipe, form, folder.with_name(f"{folder.name}-{form}"), arguments.suite)
        for threads in () if arguments.prepare else group.threads:
            rows = timed(candidates, suite, threads)
            keys = {row.key for row in rows}
            matrix.write(path, [row for row in matrix.read(path) if row.key not in keys] + rows)
            _show(rows)


def _recipe(model: str, size: int, formats: str, suite: Suite, work: Path) -> Recipe:
    """Judged on other photographs than it is calibrated on; on the demo's where the package of photos.py is missing."""
    source = "demo" if photos.stamps_missing() else str(work / "photos")
    calibration, judges = suite.photographs(size)
    return Recipe.make(
        {
            "model": model,
            "image_size": [(size, size)],
            "formats": formats.split(","),
            "precisions": ["fp32", "fp16", "w8", "w8a8"],
            "engines": ["edgekit", "nncf"],
            "calibration": {"source": source, "samples": calibration},
            "evaluation": source,
            "evaluation_samples": judges,
        }
    )


def _name(model: str) -> str:
    return Path(model).name if Path(model).exists() else zoo.find(model).name


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, filter(None, text.split(","))))


def _foretell(recipes: dict[Group, Recipe], suite: Suite) -> None:
    """Say what is left, and the longest that the timing may take; its budget caps it."""
    total = 0.0
    for group, recipe in recipes.items():
        rows = len(jobs_of(recipe)) + len(PEERS)
        seconds = len(group.threads) * rows * (LOAD_S + suite.budget_s + suite.rounds * GAP_S)
        total += seconds
        print(
            f"{group.model} at {group.size} px on {' and '.join(map(str, group.threads))} threads: {rows} rows, "
            f"{seconds / 60:.0f} min of timing",
            file=sys.stderr,
        )
    print(f"{total / 60:.0f} min of timing are left, and what building takes", file=sys.stderr)


def _show(rows: list[matrix.Row]) -> None:
    for row in sorted(rows, key=lambda row: row.p50_ms or float("inf")):
        where = f"{row.artifact:<24} {row.image_size} px, {row.threads} threads "
        if row.p50_ms is None:
            print(f"{where} {row.status}: {row.reason}")
        else:
            print(f"{where} {row.p50_ms:>8.1f} ms {row.speedup or 0:>6.2f}x {row.sqnr_db or 0:>6.1f} dB {row.unstable}")


if __name__ == "__main__":
    start = time.monotonic()
    main()
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
