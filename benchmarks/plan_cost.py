"""Seconds and peak memory of making a quantization plan, each in a process of its own.

    python -m benchmarks.plan_cost                                  # ViT-S/14 at 224, 256 images
    python -m benchmarks.plan_cost --wide --samples 64              # its width doubled: a ViT-B/14

Targets on 2 cores: ViT-S with 256 images in 5 minutes and 3 GB, ViT-B in 20 minutes and 6 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
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
from edgekit.models import zoo
from edgekit.pipeline.plans import PlanKind, inputs_of, quantize_recipe
from edgekit.quantization.engine import quantize
from edgekit.recipe import QuantizeRecipe

RESULTS = Path(__file__).parent / "results" / "plan_cost.csv"
KEY = ("arch", "plan", "image_size", "calibration_images", "threads")


@torch.no_grad()
def measure(kind: PlanKind, samples: int, side: int, wide: bool) -> dict[str, object]:
    """One plan in this process. Images beyond the installed photographs are these again, mirrored."""
    pixels = photos.load(side, None, 1)[0].pixel_values
    pixels = np.concatenate((pixels, pixels[..., ::-1]))[:samples]
    model = wide_demo() if wide else zoo.load("demo").model
    model = model.bake(side, side)
    start, busy, load = time.monotonic(), time.process_time(), os.getloadavg()[0]
    plan = quantize(
        model, np.ascontiguousarray(pixels), quantize_recipe(QuantizeRecipe(), kind), inputs=inputs_of(kind)
    )
    return {
        "arch": model.config.arch,
        "plan": kind,
        "image_size": side,
        "calibration_images": len(pixels),
        "gemms": len(plan.gemms),
        "seconds": round(time.monotonic() - start),
        "cpu_seconds": round(time.process_time() - busy),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "threads": torch.get_num_threads(),
        "load_before": round(load, 1),
        "cpu": describe_host().cpu,
        "date": str(date.today()),
    }


def main() -> None:
    """One process per plan, so that the peak is that plan's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", nargs="*", default=["int8", "int8_weights"], choices=get_args(PlanKind))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--wide", action="store_true", help="width, heads and hidden units doubled, the same function")
    parser.add_argument("--one", action="store_true", help="only the first plan, in this process, as JSON")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.plan[0], arguments.samples, arguments.image_size, arguments.wide)))
        return
    rest = ["--one", "--samples", str(arguments.samples), "--image-size", str(arguments.image_size)]
    for kind in arguments.plan:
        command = [sys.executable, "-m", "benchmarks.plan_cost", "--plan", kind, *rest, *["--wide"] * arguments.wide]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        keep_row(row, arguments.csv, KEY)


if __name__ == "__main__":
    main()
