"""What more work costs: latency and peak memory of FP32, INT8 and fused ONNX files as tokens and batch grow.

    python -m benchmarks.scaling                                # writes results/scaling.csv and the chart of its page
    python -m benchmarks.scaling --image-size 224,308 --batch 1,2 --rounds 3 --csv /path/to/scaling.csv
    python -m benchmarks.scaling --draw                         # only the chart, of the CSV that is there

All files of one size and batch are timed in turns, each in a process of its own; the CSV is written after each group.
The integers are those of one plan made at 224 pixels; only the position embedding is each size's own. So the times are
those of a build at that size, the drift would not be.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import vl_convert

from benchmarks.support.matrix import CHARTS
from benchmarks.support.rows import write_csv
from benchmarks.support.scaling_chart import ARTIFACTS, chart, exponents
from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.backends.source import ExportSource
from edgekit.host import describe_host
from edgekit.measure.latency import LatencyReport, TimingOptions, measure_latency
from edgekit.models import zoo
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.watch import Silent
from edgekit.recipe import Recipe

RESULTS = Path(__file__).parent / "results" / "scaling.csv"
SIZES, BATCHES = (224, 308, 448, 518, 742, 1022), (1, 2, 4, 8, 16, 32)
BATCHED_AT = 224  # pixels
SAMPLES = 16  # calibration photographs of the plan


class Files:
    """The four files of the demo model at any size, made once and kept in `work`."""

    def __init__(self, work: Path) -> None:
        """Make the plan, or read the one that `work` holds."""
        recipe = Recipe.make({"calibration": {"source": "demo", "samples": SAMPLES}})
        self._loaded = zoo.load(recipe.model)
        self._work = work.resolve()
        context = BuildContext(recipe, self._loaded, self._work, Silent())
        self._plan = context.plans.quant((BATCHED_AT, BATCHED_AT), "int8")

    def at(self, size: int) -> list[Artifact]:
        """FP32 and INT8, standard and fused."""
        model = self._loaded.model.bake(size, size)
        tensors = self._plan.float_tensors | {"pos_embed": model.pos_embed.detach().numpy()}
        plan = replace(self._plan, config=model.config, image_size=(size, size), float_tensors=tensors)
        source = ExportSource(
            model,
            Preprocess.for_size(size, size),
            plan,
            self._loaded.name,
            self._loaded.licence,
            self._loaded.sha256,
            "scaling",
        )
        backend, artifacts = OnnxBackend(), []
        for name in ARTIFACTS:
            precision, _, variant = name.removeprefix("onnx/").partition("_")
            path = self._work / f"{size}" / f"{precision}{variant}.onnx"
            artifacts.append(
                backend.read(path) if path.exists() else backend.export(source, precision, variant or "standard", path)  # type: ignore[arg-type]
            )
        return artifacts


def groups(sizes: Sequence[int], batches: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(image size, batch): every size with one image, then every further batch at 224 pixels."""
    yield from ((size, 1) for size in sizes)
    yield from ((BATCHED_AT, batch) for batch in batches if batch != 1 or BATCHED_AT not in sizes)


def measured(
    artifacts: Sequence[Artifact], size: int, batch: int, threads: int, rounds: int, budget_s: float
) -> list[dict[str, Any]]:
    """One group, timed in turns."""
    pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
    run = measure_latency(artifacts, pixels, TimingOptions(rounds=rounds, warmup=1, budget_s=budget_s), threads=threads)
    for name, reason in run.failures.items():
        print(f"{name} at {size} px, batch {batch}: {reason}", file=sys.stderr)
    return [_row(report, size, batch) for report in run.reports.values()]


def _row(report: LatencyReport, size: int, batch: int) -> dict[str, Any]:
    host = describe_host()
    return {
        "artifact": report.name,
        "image_size": size,
        "tokens": 1 + (size // 14) ** 2,
        "batch": batch,
        "threads": report.threads,
        "p50_ms": round(report.p50_ms, 3),
        "p90_ms": round(report.p90_ms, 3),
        "min_ms": round(report.min_ms, 3),
        "calls": sum(map(len, report.times_ms)),
        "rounds": report.rounds,
        "peak_rss_mb": round(report.peak_rss_mb, 1),
        "base_rss_mb": round(report.base_rss_mb, 1),
        "unstable": "; ".join(report.noise.reasons),
        "noise_spread": report.noise.spread,
        "cpu": host.cpu,
        "cores": host.cores_usable,
        "isa": " ".join(host.isa),
        "date": str(date.today()),
        "versions": " ".join(f"{name}={version}" for name, version in host.packages.items()),
    }


def main() -> None:
    """Measure, then draw and print the fitted exponents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", default=",".join(map(str, SIZES)), help="pixels, with commas")
    parser.add_argument("--batch", default=",".join(map(str, BATCHES)), help=f"at {BATCHED_AT} px, with commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--budget", type=float, default=12.0, help="seconds of inference per file and group")
    parser.add_argument("--work", type=Path, default=Path("build/scaling"), help="the models are kept here")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--draw", action="store_true", help="only draw the CSV again")
    options = parser.parse_args()
    if not options.draw:
        rows: list[dict[str, Any]] = []
        files = Files(options.work)
        for size, batch in groups(*(tuple(map(int, text.split(","))) for text in (options.image_size, options.batch))):
            new = measured(files.at(size), size, batch, options.threads, options.rounds, options.budget)
            rows += new
            write_csv(rows, options.csv)
            for row in new:
                print(
                    f"{size:>5} px  batch {batch:>2}  {row['artifact']:<16} {row['p50_ms']:>9.1f} ms"
                    f" {row['peak_rss_mb']:>7.0f} MB  {row['unstable']}",
                    flush=True,
                )
    with options.csv.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    for fit in exponents(read):
        print(fit)
    target = CHARTS / "scaling.svg" if options.csv == RESULTS else options.csv.with_suffix(".svg")
    target.write_text(vl_convert.vegalite_to_svg(chart(read)), encoding="utf-8")


if __name__ == "__main__":
    main()
