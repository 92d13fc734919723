"""Seconds and peak memory of making a quantization plan, each in a process of its own.

    python -m benchmarks.plan_cost                                  # ViT-S/14 at 224, 256 images
    python -m benchmarks.plan_cost --wide --samples 64              # its width doubled: a ViT-B/14
    python -m benchmarks.plan_cost --plan int8 --samples 16 --image-size 518
    python -m benchmarks.plan_cost --plan int8 --samples 64 --any-size   # a plan for 112 to 1022 pixels a side

Targets on 2 cores: ViT-S with 256 images in 5 minutes and 3 GB, ViT-B in 20 minutes and 6 GB; 16 images of 518 pixels
in 10 minutes; a plan for any size in at most 1.5 times that for 224 pixels. The steps are told on standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks.support import photos
from benchmarks.support.rows import keep_row
from benchmarks.support.wide import wide_demo
from edgekit.host import describe_host
from edgekit.images.mixture import mixture
from edgekit.images.sets import load_mixed
from edgekit.models import zoo
from edgekit.models.config import ViTConfig
from edgekit.pipeline.plans import PlanKind, inputs_of, quantize_recipe
from edgekit.quantization.engine import quantize
from edgekit.recipe import USUAL_RANGE, QuantizeRecipe

RESULTS = Path(__file__).parent / "results" / "plan_cost.csv"
SAMPLES = 128  # of which there are enough installed photographs
EVERY_S = 30.0
KEY = ("arch", "plan", "image_size", "calibration_images", "threads")


@torch.no_grad()
def measure(kind: PlanKind, samples: int, side: int, wide: bool, any_size: bool) -> dict[str, object]:
    """One plan in this process. Images beyond the installed photographs are these again, mirrored."""
    pixels = photos.load(side, None if samples > SAMPLES else samples, 1)[0].pixel_values
    pixels = np.ascontiguousarray(np.concatenate((pixels, pixels[..., ::-1]))[:samples])
    model = wide_demo() if wide else zoo.load("demo").model
    images = _mixed(model.config, samples) if any_size else pixels
    model = model.eval() if any_size else model.bake(side, side)
    start, busy, load = time.monotonic(), time.process_time(), os.getloadavg()[0]
    plan = quantize(
        model, images, quantize_recipe(QuantizeRecipe(), kind), inputs=inputs_of(kind), progress=Told(start)
    )
    return {
        "arch": model.config.arch,
        "plan": kind,
        "image_size": "-".join(map(str, USUAL_RANGE)) if any_size else side,
        "calibration_images": samples if any_size else len(pixels),
        "gemms": len(plan.gemms),
        "seconds": round(time.monotonic() - start),
        "cpu_seconds": round(time.process_time() - busy),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": torch.get_num_threads(),
        "load_before": round(load, 1),
        "cpu": describe_host().cpu,
        "date": str(date.today()),
    }


def _mixed(config: ViTConfig, samples: int) -> list[np.ndarray]:
    """Calibration photographs of mixed sizes, those of 224 pixels first."""
    transform = config.preprocess(224, 224, sides=USUAL_RANGE)
    with tempfile.TemporaryDirectory() as temporary:
        photos.prepare(Path(temporary), categories=photos.CALIBRATION)
        sizes = mixture(transform, samples)
        sets = load_mixed(temporary, [config.preprocess(*size) for size in sizes])
    return [s.pixel_values for s in sorted(sets, key=lambda s: s.preprocess.input_size != (224, 224))]


class Told:
    """Progress of a plan on standard error, a line every half minute."""

    def __init__(self, start: float) -> None:
        self._start, self._said = start, 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Tell it, unless something was told just now."""
        seconds = time.monotonic() - self._start
        if seconds - self._said >= EVERY_S:
            self._said = seconds
            print(f"{seconds:6.0f} s  {what}, {done} of {total} GEMMs", file=sys.stderr, flush=True)


def main() -> None:
    """One process per plan, so that the peak is that plan's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", nargs="*", default=["int8", "int8_weights"], choices=get_args(PlanKind))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--any-size", action="store_true", help="a plan over mixed sizes instead of --image-size")
    parser.add_argument("--wide", action="store_true", help="width, heads and hidden units doubled, the same function")
    parser.add_argument("--one", action="store_true", help="only the first plan, in this process, as JSON")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.one:
        asked = arguments.samples, arguments.image_size, arguments.wide, arguments.any_size
        print(json.dumps(measure(arguments.plan[0], *asked)))
        return
    rest = ["--one", "--samples", str(arguments.samples), "--image-size", str(arguments.image_size)]
    rest += ["--any-size"] * arguments.any_size
    for kind in arguments.plan:
        command = [sys.executable, "-m", "benchmarks.plan_cost", "--plan", kind, *rest, *["--wide"] * arguments.wide]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        keep_row(row, arguments.csv, KEY)


if __name__ == "__main__":
    main()
