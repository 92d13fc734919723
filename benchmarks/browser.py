"""Latency of a bundle's models in WebAssembly, one thread: libedgekit beside ONNX Runtime Web, in Node and Chromium.

    edgekit build --model demo --format edgekit,onnx --precision fp32,w8a8 --out OUT
    edgekit bundle OUT --to BUNDLE --platform web && npm --prefix BUNDLE/web ci
    python -m benchmarks.browser BUNDLE [--chromium] [--csv FILE]

All models take turns in one process, in another order each round. `ratio` is the fastest 8-bit ONNX file's time over
the row's: geometric mean over rounds, with a 95 % bootstrap interval. Node needs relaxed SIMD: 22 or newer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.support.rows import write_csv
from edgekit.precision import FACTS

SCRIPT = Path(__file__).parent / "support" / "browser.mjs"
RESAMPLES = 2000


def in_node(bundle: Path, rounds: int, iterations: int) -> list[dict[str, object]]:
    """Rows of Node, wall and CPU time."""
    version = _said(["node", "--version"])
    found = json.loads(_said(["node", str(SCRIPT), str(bundle), str(rounds), str(iterations)]).splitlines()[-1])
    ratios = ratios_of([each["artifact"] for each in found], [each["runtime"] for each in found], _medians(found))
    return [
        {
            "engine": f"Node {version.lstrip('v')}",
            "artifact": each["artifact"],
            "runtime": each["runtime"],
            "n": sum(map(len, each["times"])),
            "p50_ms": round(float(np.median(np.concatenate(each["times"]))), 2),
            "min_ms": round(min(map(min, each["times"])), 2),
            "cpu_p50_ms": round(float(np.median(np.concatenate(each["cpu"]))), 2),
            **ratio,
        }
        for each, ratio in zip(found, ratios, strict=True)
    ]


def in_chromium(bundle: Path) -> list[dict[str, object]]:
    """Rows of the bundle's own page in headless Chromium; its rounds are not in its file, so there is no interval."""
    web = str(bundle / "web")
    _said(["npm", "--prefix", web, "run", "build"])
    with tempfile.TemporaryDirectory() as folder:
        latency = Path(folder) / "latency.json"
        _said(["npm", "--prefix", web, "run", "check", "--", "--latency", str(latency)])
        rows = [row for row in json.loads(latency.read_text(encoding="utf-8")) if row["placement"].endswith("1 thread")]
    rivals = [row["p50_ms"] for row in rows if is_rival(row["artifact"])]
    return [
        {
            "engine": row["cpu"],
            "artifact": row["artifact"],
            "runtime": "edgekit" if row["artifact"].startswith("edgekit/") else "onnxruntime-web",
            "n": "",
            "p50_ms": row["p50_ms"],
            "min_ms": row["min_ms"],
            "cpu_p50_ms": "",
            "ratio": round(min(rivals) / row["p50_ms"], 2) if rivals else "",
            "ratio_low": "",
            "ratio_high": "",
        }
        for row in rows
    ]


def is_rival(artifact: str) -> bool:
    """Whether an artifact is an ONNX file with 8-bit weights."""
    return artifact.startswith("onnx/") and FACTS[artifact.partition("/")[2].partition("_")[0]].weight_bits == 8


def ratios_of(artifacts: list[str], runtimes: list[str], medians: np.ndarray) -> list[dict[str, object]]:
    """Ratios of each row: times as fast as the fastest rival; `medians` (rows, rounds) in ms."""
    rivals = [i for i, name in enumerate(artifacts) if is_rival(name)]
    if not rivals:
        return [{"ratio": "", "ratio_low": "", "ratio_high": ""} for _ in artifacts]
    best = min(rivals, key=lambda i: float(np.median(medians[i])))
    rng = np.random.default_rng(0)
    picks = rng.integers(0, medians.shape[1], (RESAMPLES, medians.shape[1]))
    found: list[dict[str, object]] = []
    for own in medians:
        logs = np.log(medians[best] / own)
        low, high = np.quantile(np.exp(logs[picks].mean(1)), [0.025, 0.975])
        found.append(
            {
                "ratio": round(float(np.exp(logs.mean())), 2),
                "ratio_low": round(float(low), 2),
                "ratio_high": round(float(high), 2),
            }
        )
    return found


def _medians(found: list[dict[str, list[list[float]]]]) -> np.ndarray:
    """(rows, rounds) in ms."""
    return np.array([[np.median(turn) for turn in each["times"]] for each in found])


def _said(command: list[str]) -> str:
    """Output of a command; its errors end the benchmark."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="made by `edgekit bundle`, with the packages of web/ installed")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=5, help="runs of a model per round")
    parser.add_argument("--chromium", action="store_true", help="the bundle's page as well")
    parser.add_argument("--csv", type=Path, help="also write the rows there")
    options = parser.parse_args()
    rows = in_node(options.bundle.resolve(), options.rounds, options.iterations)
    if options.chromium:
        rows += in_chromium(options.bundle.resolve())
    for row in rows:
        print(
            f"{row['engine']:<28} {row['artifact']:<16} {row['runtime']:<24} {row['p50_ms']:>8} ms "
            f"(min {row['min_ms']}, CPU {row['cpu_p50_ms'] or '-'})  "
            f"{row['ratio']}x ({row['ratio_low']} to {row['ratio_high']})"
        )
    write_csv(rows, options.csv)


if __name__ == "__main__":
    main()
