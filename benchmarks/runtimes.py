"""Latency and placement of every artifact of a build, all in one interleaved run, on one thread and on two.

    edgekit build --model demo --format onnx,openvino --precision fp32,w8,w8a8 --engine edgekit,nncf --out OUT
    python benchmarks/runtimes.py OUT [--csv benchmarks/results/runtimes.csv]

The peers are in the same run: onnx/w8 is ONNX Runtime's dynamic INT8, onnx/w8a8 its static one, openvino/w8a8_nncf what
NNCF makes of the same model and images. Speedups are against onnx/fp32, paired round by round, with a 95 % interval.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

from edgekit.artifact import INPUT_NAME, Artifact, Manifest
from edgekit.backends import get_backend
from edgekit.backends.placement import placement
from edgekit.measure.host import describe_host
from edgekit.measure.latency import measure_latency
from edgekit.pipeline.compare import artifacts_in
from edgekit.pipeline.timing import reference_name


def measure(build: Path, threads: tuple[int, ...], rounds: int, budget_s: float) -> list[dict[str, object]]:
    """One row per artifact and number of threads."""
    manifest = Manifest.read(build)
    rows = {row.name: row for row in manifest.artifacts}
    artifacts = [artifact for artifact in artifacts_in(build) if _can_be_timed(artifact)]
    reference = reference_name(manifest.artifacts)
    height, width = artifacts[0].preprocess.input_size
    pixels = np.random.default_rng(0).standard_normal((1, 3, height, width), np.float32)
    host = describe_host()
    found: list[dict[str, object]] = []
    for count in threads:
        run = measure_latency(
            artifacts, pixels, threads=count, reference=reference, rounds=rounds, budget_s=budget_s, notify=_say
        )
        for artifact in artifacts:
            if artifact.name not in run.reports:
                _say(f"{artifact.name}: {run.failures[artifact.name]}")
                continue
            report = run.reports[artifact.name]
            drift = rows[artifact.name].drift or {}
            speedup = report.speedup
            found.append({
                "cpu": host.cpu, "size": f"{height}x{width}", "artifact": artifact.name, "threads": count,
                "p50_ms": round(report.p50_ms, 2), "min_ms": round(report.min_ms, 2),
                "speedup": round(speedup.value, 3) if speedup else "",
                "speedup_low": round(speedup.low, 3) if speedup else "",
                "speedup_high": round(speedup.high, 3) if speedup else "",
                "sqnr_db": drift.get("sqnr_db", ""), "cls_cosine": drift.get("cls_cosine", ""),
                "size_mb": artifact.size_mb, "quiet": not report.noise.reasons,
                "placement": placement(get_backend(artifact.format).audit(artifact)),
            })  # fmt: skip
    return found


def _can_be_timed(artifact: Artifact) -> bool:
    """Float pixels in, and a runtime that is here."""
    return artifact.inputs[0].name == INPUT_NAME and get_backend(artifact.format).runner_missing() is None


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def main() -> None:
    """Print the table; write it as CSV when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--threads", default="1,2", help="numbers of threads, one run each")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--budget", type=float, default=12.0, help="seconds of inference per artifact and run")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    threads = tuple(int(n) for n in arguments.threads.split(","))
    rows = measure(arguments.build, threads, arguments.rounds, arguments.budget)
    for row in rows:
        print(f"{row['artifact']:<22} {row['threads']} thr {row['p50_ms']:>8} ms  {row['speedup']:>5}x "
              f"[{row['speedup_low']}, {row['speedup_high']}]  {row['placement']}")  # fmt: skip
    if arguments.csv:
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        with arguments.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
