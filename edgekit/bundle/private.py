"""Privacy of bundles: they tell neither places of this machine nor photographs that a build was judged on."""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.base import Runner
from edgekit.bundle.pictures import FOLDER, picture_files
from edgekit.bundle.places import names_place
from edgekit.errors import DataError
from edgekit.files import read_text
from edgekit.images import preprocess, read_image
from edgekit.images.demo import DEMO
from edgekit.manifest import Manifest
from edgekit.measure.golden import INPUTS, OUTPUTS
from edgekit.report.content import BuildReport

_TEXTS = (".json", ".md", ".toml", ".html", ".txt", ".xml")
_LEAST = 8  # bytes of a place that is looked for in numbers, where shorter ones occur by chance
_GOLDEN_IMAGES = 4  # as many as a build's own golden files have
_PICTURE = re.compile(r"<img\b[^>]*\bdata:image/[^>]*>", re.IGNORECASE)


def shows_demo(manifest: Manifest) -> bool:
    """Whether a build was judged on the demo photographs, which anybody may see."""
    return manifest.recipe.get("evaluation") == DEMO


def write_golden_pictures(golden: Path, reference: Runner) -> None:
    """Write golden inputs and outputs of the golden pictures in place of the user's own photographs.

    Pixels that a model is given are a photograph, whatever they are scaled by.

    Args:
        golden: folder with `pictures/`.
        reference: a runner of the FP32 artifact.
    """
    from safetensors.numpy import save

    transform = reference.artifact.preprocess
    files = picture_files(golden / FOLDER)[:_GOLDEN_IMAGES]
    pixels = np.stack([preprocess(read_image(file), transform) for file in files])
    outputs = [reference(each[None]) for each in pixels]
    expected = {name: np.concatenate([output[name] for output in outputs]) for name in OUTPUT_NAMES}
    (golden / INPUTS).write_bytes(save({INPUT_NAME: np.ascontiguousarray(pixels, np.float32)}))
    (golden / OUTPUTS).write_bytes(
        save({name: np.ascontiguousarray(values, np.float32) for name, values in expected.items()})
    )


def page_without_photographs(page: Path, report: BuildReport | None) -> str:
    """The page of a report without pictures and names of the user's images: drawn again, where its data are there."""
    if report is None:
        return _PICTURE.sub("", read_text(page))
    from edgekit.report.page import render_page

    return render_page(report.without_photographs())


def require_private(folder: Path, places: Mapping[str, str]) -> None:
    """Raises DataError when a file of a bundle names a place of this machine after all."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        if path.suffix in _TEXTS:
            found = names_place(path.read_text(encoding="utf-8", errors="replace"), places)
        else:
            found = _names_place(path, places)
        if found:
            raise DataError(
                f"{path.relative_to(folder)} of the bundle would name {found}",
                why="a bundle is made for upload, and must not tell of this machine",
                fix="edgekit build --out OUT",
            )


def _names_place(path: Path, places: Mapping[str, str]) -> str | None:
    """The first longer place in a file of numbers, None where there is none."""
    if not path.stat().st_size:
        return None
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return next((p for p in places if len(p) >= _LEAST and content.find(p.encode("utf-8", "replace")) >= 0), None)
