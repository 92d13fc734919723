"""Does `edgekit curate` draw better calibration images than chance? Plans from both draws, judged on other photographs.

    python -m benchmarks.curation [-n 48] [--seeds 3] [--judges 24]

The pool holds five kinds of photographs, unevenly; other kinds and natural scenes judge.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch

from benchmarks.support import photos
from edgekit.images.curation import curate
from edgekit.models import zoo
from edgekit.quantization.engine import quantize
from edgekit.quantization.sensitivity import verify
from edgekit.recipe import QuantizeRecipe

RESULTS = Path(__file__).parent / "results" / "curation.csv"
COLUMNS = (
    "draw",
    "seed",
    "calibration_images",
    "pool",
    "photos",
    "n",
    "sqnr_db",
    "cls_cosine",
    "per_token_sqnr_db",
    "per_token_cls_cosine",
)


@torch.no_grad()
def main() -> None:
    """Both draws with every seed; each row is written when it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=48, help="images drawn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--judges", type=int, default=24, help="images of each kind that judge")
    arguments = parser.parse_args()
    calibration, judges = photos.load(224, None, arguments.judges)
    pool = calibration.pixel_values
    model = zoo.load("demo").model.bake(224, 224)
    exact = {kind: model(torch.from_numpy(images.pixel_values))[0] for kind, images in judges.items()}
    features = np.concatenate(
        [model(torch.from_numpy(some))[1].numpy() for some in np.array_split(pool, len(pool) // 8)]
    )
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for seed in range(arguments.seeds):
            draws = {
                "curated": list(curate(features, arguments.n, seed=seed).chosen),
                "random": np.random.default_rng(seed).choice(len(pool), arguments.n, replace=False),
            }
            for draw, chosen in draws.items():
                plan = quantize(model, pool[chosen], QuantizeRecipe())
                for kind, images in judges.items():
                    drift = verify(plan, torch.from_numpy(images.pixel_values), exact[kind])
                    row = {
                        "draw": draw,
                        "seed": seed,
                        "calibration_images": len(chosen),
                        "pool": len(pool),
                        "photos": kind,
                        "n": drift.pop("images"),
                        **drift,
                    }
                    print(*row.values(), sep="  ", flush=True)
                    writer.writerow(row)
                    file.flush()


if __name__ == "__main__":
    main()
