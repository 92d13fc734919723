"""Real labelled photographs for benchmarks: the stamps of the Debian package tuxpaint-stamps-default, by category."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from edgekit.artifact import Preprocess
from edgekit.images import ImageSet, load_set

STAMPS = Path("/usr/share/tuxpaint/stamps")
DRAWN = ("symbols", "cartoon", "flags")  # no photographs
CALIBRATION = frozenset({"animals", "plants", "food", "vehicles", "town"})  # all other kinds only judge
FIX = "sudo apt-get install tuxpaint-stamps-default"


def stamps_missing() -> str | None:
    """None when the photographs are installed, else the command that installs them."""
    return None if STAMPS.is_dir() else f"{STAMPS} is not here: {FIX}"


def prepare(folder: Path, *, categories: frozenset[str] | None = None) -> int:
    """Copy the photographs to `folder`/<category>/; returns how many.

    Args:
        folder: made if need be.
        categories: only these; None for all.

    Raises:
        SystemExit: the package is not installed.
    """
    if problem := stamps_missing():
        raise SystemExit(problem)
    count = 0
    for photo in sorted(STAMPS.rglob("*.png")):
        parts = photo.relative_to(STAMPS).parts
        if any(word in part for part in parts for word in DRAWN) or (categories and parts[0] not in categories):
            continue
        target = folder / parts[0] / "_".join(parts[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, target)
        count += 1
    return count


def load(
    side: int, samples: int | None, judges: int, transform: Preprocess | None = None
) -> tuple[ImageSet, dict[str, ImageSet]]:
    """Calibration photographs, and those that judge: "like" them, "unlike" them (other kinds), and the demo's scenes.

    Args:
        side: pixels, a multiple of the patch.
        samples: calibration photographs; None for all of them, and then none is left to be "like" them.
        judges: photographs of each kind that judge.
        transform: of a model that is no DINOv2; that of DINOv2 at `side` when None.
    """
    transform = transform or Preprocess.for_size(side, side)
    with tempfile.TemporaryDirectory() as temporary:
        like, unlike = Path(temporary, "like"), Path(temporary, "unlike")
        prepare(like, categories=CALIBRATION)
        prepare(unlike)
        for category in CALIBRATION:
            shutil.rmtree(unlike / category)
        calibration = load_set(like, transform, samples=samples, seed=0)
        sets = {
            "unlike": load_set(unlike, transform, samples=judges, seed=1),
            "demo": load_set("demo", transform, samples=judges, seed=1, split="evaluation"),
        }
        if samples is not None:
            sets = {"like": load_set(like, transform, samples=judges, seed=1, disjoint_from=calibration)} | sets
    return calibration, sets


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(f"{prepare(parser.parse_args().folder)} photographs", file=sys.stderr)
