"""The other side of `worker`: `python -m edgekit.measure.isolated` loads one model and answers on stdin and stdout."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgekit.artifact import Artifact
from edgekit.backends import get_backend
from edgekit.backends.base import Runner

Run = Callable[[np.ndarray], object]


def load_artifact(argument: dict[str, Any], threads: int | None) -> Runner:
    """Open an artifact (as its JSON) with its backend."""
    artifact = Artifact.model_validate(argument)
    return get_backend(artifact.format).runner(artifact, threads)


def time_runs(run: Run, pixel_values: np.ndarray, iterations: int, untimed: int = 0) -> list[float]:
    """Milliseconds of each of `iterations` calls, after `untimed` others."""
    for _ in range(untimed):
        run(pixel_values)
    times = []
    for _ in range(iterations):
        start = time.perf_counter_ns()
        run(pixel_values)
        times.append((time.perf_counter_ns() - start) / 1e6)
    return times


def peak_rss_mb() -> float:
    """Highest resident memory of this process in MB (10^6 bytes).

    Linux' VmHWM, not getrusage: ru_maxrss of a child starts at the size of the parent it was forked from.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    import psutil

    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return info.peak_wset / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Load what the first order names, then answer `run` and `memory` orders until the input ends."""

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    first = json.loads(orders.readline())
    base = peak_rss_mb()
    try:
        module, _, function = first["loader"].partition(":")
        start = time.perf_counter_ns()
        run: Run = getattr(import_module(module), function)(first["argument"], first["threads"])
        load_ms = (time.perf_counter_ns() - start) / 1e6
        pixels = np.load(first["pixels"])
        first_ms = time_runs(run, pixels, 1)[0]
        answer({"load_ms": load_ms, "first_ms": first_ms, "base_rss_mb": base})
        for line in orders:
            order = json.loads(line)
            if "run" in order:
                answer({"times_ms": time_runs(run, pixels, order["run"], order["untimed"])})
            else:
                answer({"peak_rss_mb": peak_rss_mb()})
    except Exception as error:  # every failure of a runtime is a row of the report, with its reason
        answer({"error": str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__})


def main() -> None:
    """Keep the real stdout for answers and send what native libraries print there to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
