"""The self-check of a bundle in Python: every artifact that runs here, on golden tensors and golden pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.backends import load
from edgekit.bundle.pictures import check_pictures, worst
from edgekit.errors import BackendMissing, DriftExceeded
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.measure.golden import FOLDER, check_golden
from edgekit.precision import FACTS

MOST_DIFFERENCE = 1.0
"""Largest mean difference of a crop in levels of 0..255: JPEG decoders differ by less, wrong preprocessing by more."""


@dataclass(frozen=True)
class ArtifactCheck:
    """One artifact of a bundle. `words` are the figures, or why it was skipped or failed."""

    path: str
    outcome: Literal["passed", "failed", "skipped"]
    words: str


def check_bundle(bundle: Path) -> Iterator[ArtifactCheck]:
    """Check one artifact after the other.

    Raises:
        DataError: no bundle, or a damaged one.
    """
    bundle = Path(bundle)
    for row in Manifest.read(bundle).artifacts:
        try:
            yield _check(bundle, row)
        except BackendMissing as missing:
            yield ArtifactCheck(str(row.path), "skipped", str(missing))
        except DriftExceeded as error:
            yield ArtifactCheck(str(row.path), "failed", str(error))


def _check(bundle: Path, row: ArtifactRow) -> ArtifactCheck:
    model = load(bundle / str(row.path))
    further = bundle / "{}x{}".format(*model.artifact.preprocess.input_size)  # a size that is not the main one
    home = further if row.name.endswith(f"_{further.name}") else bundle
    words = []
    if model.artifact.inputs[0].name == "pixel_values":
        words.append(f"tensors {check_golden(home, model.runner).pooler_cosine:.6f}")
    pictures = check_pictures(home / FOLDER, model)
    difference = max(picture.difference or 0.0 for picture in pictures)
    lowest = worst(pictures)
    words += [f"pictures {lowest.cosine:.6f} ({lowest.name})", f"crops {difference:.3f} levels off"]
    good = lowest.cosine >= FACTS[row.precision].least_cosine and difference <= MOST_DIFFERENCE
    return ArtifactCheck(str(row.path), "passed" if good else "failed", ", ".join(words))
