"""Real labelled photographs for benchmarks: the stamps of the Debian package tuxpaint-stamps-default, by category."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

STAMPS = Path("/usr/share/tuxpaint/stamps")
DRAWN = ("symbols", "cartoon", "flags")  # no photographs
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(f"{prepare(parser.parse_args().folder)} photographs", file=sys.stderr)
