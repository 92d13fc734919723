"""What `--recover` brings: a plan before and after distillation, on photographs that neither calibrated nor trained.

    python -m benchmarks.recovery                                   # w4a8, 64 images, a ViT-S/14 at 224
    python -m benchmarks.recovery --image-size 112 --samples 32     # a first look
    python -m benchmarks.recovery --plan int8                       # the static 8-bit plan

Every row says how long it took and how much memory the process had at most by then.
"""

from __future__ import annotations

import argparse
import resource
import time
from datetime import date
from pathlib import Path
from typing import get_args

import torch

from benchmarks.support import photos
from benchmarks.support.rows import keep_row
from edgekit.distill.reconstruction import ReconstructionRecipe, reconstruct
from edgekit.host import describe_host
from edgekit.models import zoo
from edgekit.pipeline.plans import PlanKind, inputs_of, quantize_recipe
from edgekit.plan.quant import QuantPlan
from edgekit.quantization.engine import quantize
from edgekit.quantization.sensitivity import verify
from edgekit.recipe import QuantizeRecipe

RESULTS = Path(__file__).parent / "results" / "recovery.csv"
KEY = ("model", "image_size", "calibration_images", "plan", "stage", "photos", "block_steps", "end_steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--plan", default="int4", choices=get_args(PlanKind))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--samples", type=int, default=64, help="images that calibrate and train")
    parser.add_argument("--judges", type=int, default=24, help="images of each kind that judge")
    parser.add_argument("--block-steps", type=int, default=ReconstructionRecipe().block_steps)
    parser.add_argument("--end-steps", type=int, default=ReconstructionRecipe().end_steps)
    parser.add_argument("--end-share", type=float, default=ReconstructionRecipe().end_share)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    calibration, judges = photos.load(arguments.image_size, arguments.samples, arguments.judges)
    model = zoo.load(arguments.model).model.bake(arguments.image_size, arguments.image_size)
    recipe = ReconstructionRecipe(
        block_steps=arguments.block_steps, end_steps=arguments.end_steps, end_share=arguments.end_share
    )
    start = time.monotonic()

    @torch.no_grad()
    def judge(stage: str, plan: QuantPlan) -> None:
        seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for kind, images in judges.items():
            pixels = torch.from_numpy(images.pixel_values)
            exact = torch.cat([model(batch)[0] for batch in pixels.split(8)])
            drift = verify(plan, pixels, exact)
            row = {
                "model": arguments.model,
                "image_size": arguments.image_size,
                "calibration_images": len(calibration),
                "plan": arguments.plan,
                "stage": stage,
                "photos": kind,
                "n": len(images),
                "sqnr_db": f"{drift['sqnr_db']:.2f}",
                "cls_cosine": f"{drift['cls_cosine']:.5f}",
                "block_steps": recipe.block_steps,
                "end_steps": recipe.end_steps,
                "seconds": f"{seconds:.0f}",
                "peak_mb": f"{peak:.0f}",
                "cpu": describe_host().cpu,
                "threads": torch.get_num_threads(),
                "date": date.today(),
            }
            print(*(row[c] for c in ("stage", "photos", "sqnr_db", "cls_cosine", "seconds")), sep="  ", flush=True)
            keep_row(row, arguments.csv, KEY)

    steps = quantize_recipe(QuantizeRecipe(), arguments.plan)
    plan = quantize(model, calibration.pixel_values, steps, inputs=inputs_of(arguments.plan))
    judge("quantized", plan)
    recovered = reconstruct(plan, calibration.pixel_values, recipe)
    judge(f"recovered: {recovered.provenance['recovery']}", recovered)


if __name__ == "__main__":
    main()
