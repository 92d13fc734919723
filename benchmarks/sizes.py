"""One file for images of any size against a baked file of each size: parity, drift and latency.

    python -m benchmarks.sizes                                  # writes results/sizes.csv
    python -m benchmarks.sizes --image-size 224x224,280x406 --formats onnx --rounds 3 --csv /path/to/sizes.csv
    python -m benchmarks.sizes --rounds 0                       # parity and drift alone, which do not depend on load
    python -m benchmarks.sizes --precision fp32                 # needs no plan

Both files of a kind hold the integers of one plan, calibrated over mixed sizes, and are timed in turns, each in a
process of its own. `parity` is the largest difference of an FP32 file from torch, `same` that of the file for any size
from the baked one; SQNR is that against torch on photographs that calibrated nothing, resized whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.rows import write_csv
from edgekit.artifact import OUTPUT_NAMES, Artifact
from edgekit.backends import get_backend
from edgekit.backends.source import ExportSource
from edgekit.host import describe_host
from edgekit.images.demo import demo_crops
from edgekit.images.preprocess import whole
from edgekit.measure.latency import LatencyReport, TimingOptions, measure_latency
from edgekit.metrics import sqnr_db
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.watch import Silent
from edgekit.plan.quant import QuantPlan
from edgekit.precision import Precision, Variant, is_float
from edgekit.quantization.sizes import baked_plan
from edgekit.recipe import Recipe

RESULTS = Path(__file__).parent / "results" / "sizes.csv"
SIZES = ((224, 224), (518, 518), (280, 406), (518, 686), (98, 980), (1022, 1022))
SIDES = (98, 1022)
KINDS: tuple[tuple[Precision, Variant], ...] = (
    ("fp32", "standard"),
    ("fp32", "fused"),
    ("w8a8", "standard"),
    ("w8a8", "fused"),
)


class Files:
    """The files of a model for any size and for one, made once and kept in `work`."""

    def __init__(self, model: str, samples: int, work: Path) -> None:
        """Load the model; `work` keeps the plan and the files."""
        values = {"model": model, "image_size": [f"dynamic:{SIDES[0]}-{SIDES[1]}"], "own_heads": False}
        recipe = Recipe.make(values | {"calibration": {"source": "demo", "samples": samples}})
        self._work = work.resolve()
        self.context = BuildContext.load(recipe, self._work, Silent())
        self.float = self.context.inputs.model(None)

    def plan(self) -> QuantPlan:
        """The plan over mixed sizes, which is made on first use."""
        return self.context.plans.quant(None, "int8")

    def pair(self, format_: str, precision: Precision, variant: Variant, size: tuple[int, int]) -> list[Artifact]:
        """The file for any size, then the baked one, under names that tell them apart."""
        config, backend = self.context.loaded.model.config, get_backend(format_)
        any_size = ExportSource(
            self.float,
            config.preprocess(224, 224, sides=SIDES),
            None if is_float(precision) else self.plan(),
            self.context.loaded.name,
            self.context.loaded.licence,
            self.context.loaded.sha256,
            "sizes",
        )
        baked = replace(
            any_size,
            model=self.float.bake(*size),
            preprocess=config.preprocess(*size),
            plan=any_size.plan and baked_plan(any_size.plan, size),
        )
        name = backend.filename(precision, variant)
        made = []
        for place, source in (("any", any_size), ("x".join(map(str, size)), baked)):
            path = self._work / place / format_ / name
            artifact = backend.read(path) if path.exists() else backend.export(source, precision, variant, path)
            made.append(
                artifact.model_copy(update={"name": f"{artifact.name} {'any' if source is any_size else 'baked'}"})
            )
        return made


def rows_of(files: Files, size: tuple[int, int], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row of each kind of file at one size."""
    pixels = photographs(files, size, options.judges)
    with torch.no_grad():
        expected = torch.cat([files.float(image)[0] for image in torch.from_numpy(pixels).split(1)]).numpy()
    for format_ in options.formats.split(","):
        for precision, variant in KINDS:
            if precision not in options.precision.split(","):
                continue
            if variant == "fused" and (reason := get_backend(format_).fused_missing()):
                print(f"{format_} {precision} fused: {reason}", file=sys.stderr)
                continue
            pair = files.pair(format_, precision, variant, size)
            free, baked = (outputs_of(artifact, pixels) for artifact in pair)
            row: dict[str, Any] = {
                "artifact": pair[0].name.removesuffix(" any"),
                "image_size": f"{size[0]}x{size[1]}",
                "tokens": expected.shape[1],
                "images": len(pixels),
                "parity": f"{np.abs(free - expected).max():.1e}" if is_float(precision) else "",
                "same": f"{np.abs(free - baked).max():.1e}",
                "sqnr_db": round(sqnr_db(expected, free), 2),
                "baked_sqnr_db": round(sqnr_db(expected, baked), 2),
            }
            yield row | latency_of(pair, pixels[:1], options)


def photographs(files: Files, size: tuple[int, int], count: int) -> np.ndarray:
    """Evaluation photographs (n, 3, H, W), resized whole."""
    transform = files.context.inputs.preprocess(files.context.recipe.main_size)
    return np.stack([whole(crop.convert("RGB"), transform, size) for _, crop in demo_crops("evaluation", count)])


def outputs_of(artifact: Artifact, pixels: np.ndarray) -> np.ndarray:
    """All tokens (n, N, D), image by image."""
    runner = get_backend(artifact.format).runner(artifact)
    return np.concatenate([runner(pixels[i : i + 1])[OUTPUT_NAMES[0]] for i in range(len(pixels))])


def latency_of(pair: list[Artifact], pixels: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Medians of both files, timed in turns, and what the free size costs; dashes where nothing was timed."""
    reports: dict[str, LatencyReport] = {}
    if options.rounds:
        timing = TimingOptions(rounds=options.rounds, warmup=2, budget_s=options.budget)
        run = measure_latency(pair, pixels, timing, threads=options.threads, reference=pair[1].name)
        reports = run.reports
        for name, reason in run.failures.items():
            print(f"{name}: {reason}", file=sys.stderr)
    free, baked = (reports.get(artifact.name) for artifact in pair)
    speedup = free.speedup if free else None
    host = describe_host()
    return {
        "p50_ms": round(free.p50_ms, 2) if free else "",
        "baked_p50_ms": round(baked.p50_ms, 2) if baked else "",
        "dearer_percent": round(100 / speedup.value - 100, 1) if speedup else "",
        "dearer_from": round(100 / speedup.high - 100, 1) if speedup else "",
        "dearer_to": round(100 / speedup.low - 100, 1) if speedup else "",
        "peak_rss_mb": round(free.peak_rss_mb) if free else "",
        "baked_peak_rss_mb": round(baked.peak_rss_mb) if baked else "",
        "threads": options.threads,
        "rounds": options.rounds,
        "unstable": "; ".join(free.noise.reasons) if free else "",
        "cpu": host.cpu,
        "date": str(date.today()),
    }


def main() -> None:
    """Every size after the other; the CSV is written after each row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--image-size", default=",".join(f"{h}x{w}" for h, w in SIZES), help="HxW, with commas")
    parser.add_argument("--formats", default="onnx,openvino", help="with commas")
    parser.add_argument("--precision", default="fp32,w8a8", help="with commas")
    parser.add_argument("--judges", type=int, default=4, help="photographs at each size")
    parser.add_argument("--samples", type=int, default=64, help="calibration images of the plan")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10, help="of timing; 0 times nothing")
    parser.add_argument("--budget", type=float, default=12.0, help="seconds of inference per file")
    parser.add_argument("--work", type=Path, default=Path("build/sizes"), help="the files are kept here")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    options = parser.parse_args()
    files, rows = Files(options.model, options.samples, options.work), list[dict[str, Any]]()
    for word in options.image_size.split(","):
        height, _, width = word.partition("x")
        for row in rows_of(files, (int(height), int(width or height)), options):
            rows.append(row)
            write_csv(rows, options.csv)
            print("  ".join(f"{key} {value}" for key, value in row.items() if key not in ("cpu", "date")), flush=True)


if __name__ == "__main__":
    main()
