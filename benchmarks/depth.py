"""Depth Anything V2 Small in every format: drift of its depth map, and latency of the whole model beside FP32.

    python -m benchmarks.depth --drift                  # fit the head, build all four formats, measure drift
    python -m benchmarks.depth --threads 2              # the same, and time all files in turns
    python -m benchmarks.depth --image-size 224 --csv build/depth.csv

The model is that of `benchmarks/support/depth_model.py`: the demo's backbone, a head of the published size. Files are
timed in turns, each in a process of its own. Stop it at any time: the head, finished files and their drift are kept in
--work, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from benchmarks.support import photos
from benchmarks.support.depth_model import fitted_depth_anything
from benchmarks.support.matrix import RESULTS
from benchmarks.support.rows import keep_row
from edgekit.artifact import FORMATS
from edgekit.host import describe_host
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.pipeline import build
from edgekit.pipeline.watch import Silent
from edgekit.recipe import Recipe

HEAD = "predicted_depth"
KEY = ("image size", "threads", "file")
LEAST_PHOTOS = 8


def recipe_of(model: Path, size: int, work: Path) -> Recipe:
    """Judged on other photographs than it is calibrated on; on the demo's where the package of photos.py is missing."""
    source = "demo" if photos.stamps_missing() else str(work / "photos")
    share = min(1.0, (224 / size) ** 2)  # larger photographs are fewer, for the same work
    return Recipe.make(
        {
            "model": str(model),
            "image_size": [(size, size)],
            "formats": [*FORMATS],
            "precisions": ["fp32", "w8a8"],
            "calibration": {"source": source, "samples": max(LEAST_PHOTOS, round(32 * share))},
            "evaluation": source,
            "evaluation_samples": max(LEAST_PHOTOS, round(24 * share)),
        }
    )


def row_of(row: ArtifactRow, manifest: Manifest, size: int, threads: int | None) -> dict[str, object]:
    """Cost and loss of one file; empty where it was not measured."""
    drift, latency, run = row.drift or {}, row.latency or {}, manifest.run_of(row)
    depth = drift.get("heads", {}).get(HEAD, {})

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    return {
        "image size": size,
        "file": row.name,
        "status": row.status,
        "mb": number(row.size_mb, 1),
        "depth drift": f"{depth.get('measure', '')} {depth.get('unit', '')}".strip(),
        "value": number(depth.get("value"), 4),
        "low": number(depth.get("low"), 4),
        "high": number(depth.get("high"), 4),
        "tokens dB": number(drift.get("sqnr_db"), 1),
        "CLS cosine": number(drift.get("cls_cosine_mean"), 5),
        "images": drift.get("n", ""),
        "threads": threads or "",
        "p50 ms": number(latency.get("p50_ms"), 1),
        "over fp32": number(latency.get("speedup_vs_fp32"), 2),
        "range": " to ".join(number(latency.get(key), 2) for key in ("speedup_low", "speedup_high")).strip(" to"),
        "host busy": number(run.busy if run else None, 2),
        "cpu": describe_host().cpu,
        "date": date.today(),
    }


def main() -> None:
    """Fit, build, measure; print and keep one row for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=518, help="pixels of a side, a multiple of 14")
    parser.add_argument("--threads", type=int, default=2, help="of each runtime while it is timed")
    parser.add_argument("--drift", action="store_true", help="time nothing")
    parser.add_argument("--work", type=Path, default=Path("build/depth"), help="the head and the builds are kept here")
    parser.add_argument("--csv", type=Path, default=RESULTS / "depth.csv")
    arguments = parser.parse_args()
    work, size = arguments.work.resolve(), arguments.image_size
    model = fitted_depth_anything(work / "checkpoint")
    if not photos.stamps_missing() and not (work / "photos").exists():
        photos.prepare(work / "photos")
    threads = None if arguments.drift else arguments.threads
    out = work / f"{size}"
    build(
        recipe_of(model, size, work),
        out,
        measure="drift" if arguments.drift else "all",
        threads=threads,
        watcher=_Said(),
    )
    manifest = Manifest.read(out)
    for each in manifest.artifacts:
        row = row_of(each, manifest, size, threads)
        print(*row.values(), each.reason, sep="  ", flush=True)
        keep_row(row, arguments.csv, KEY)


class _Said(Silent):
    """Notes and finished artifacts on stderr."""

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    def finished(self, row: ArtifactRow, fate: str) -> None:
        print(f"  {row.name}: {row.status} {row.reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
