"""What each step of the quantization recipe brings on photographs unlike those of calibration: plans with one step off.

python -m benchmarks.ablation [--samples 48] [--judges 24] [--extras]
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from benchmarks.support import photos
from edgekit.models import zoo
from edgekit.quantization.ablate import ablate
from edgekit.recipe import QuantizeRecipe

RESULTS = Path(__file__).parent / "results" / "ablation.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=48, help="calibration images")
    parser.add_argument("--judges", type=int, default=24, help="images that judge")
    parser.add_argument("--extras", action="store_true", help="also with each step that is off by default")
    arguments = parser.parse_args()
    calibration, sets = photos.load(224, arguments.samples, arguments.judges)
    judges = sets["unlike"]
    table = ablate(
        zoo.load("demo").model.bake(224, 224),
        calibration.pixel_values,
        judges.pixel_values,
        QuantizeRecipe(),
        extras=arguments.extras,
        progress=lambda name, done, total: print(f"{done + 1}/{total} {name}", flush=True),
    )
    with RESULTS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["recipe", "calibration_images", "n", "sqnr_db", "change_db", "cls_cosine", "per_token_sqnr_db"]
        )
        base = table["as it is"]["sqnr_db"]
        for name, row in table.items():
            writer.writerow(
                [
                    name,
                    len(calibration),
                    len(judges),
                    f"{row['sqnr_db']:.2f}",
                    f"{row['sqnr_db'] - base:+.2f}",
                    f"{row['cls_cosine']:.5f}",
                    f"{row['per_token_sqnr_db']:.2f}",
                ]
            )


if __name__ == "__main__":
    main()
