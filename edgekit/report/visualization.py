"""Pictures of what models see in a set of images: PNG files, and one page that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.images.preprocess import to_pixels
from edgekit.images.sets import ImageSet
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features
from edgekit.measure.retrieval import RECALL_DEPTH, nearest
from edgekit.report.content import DataUri
from edgekit.report.foreground import ForegroundColours
from edgekit.report.pictures import data_uri, enlarged, heat_tile, strip
from edgekit.report.template import render


@dataclass(frozen=True)
class Shown:
    """One image on the page: pictures as data URIs, a list with one entry per model."""

    name: str
    photo: DataUri
    colours: list[DataUri]
    neighbours: list[DataUri]
    nearest: list[list[str]]
    attention: DataUri | None


def write_visualization(
    images: ImageSet,
    features: Mapping[str, Features],
    out: Path,
    *,
    attention: tuple[str, np.ndarray] | None,
    show: int,
) -> Path:
    """Write the PNG files and `index.html` into `out`; returns the page.

    Args:
        images: all of them; neighbours are searched among all.
        features: one or two models' by name, of all images; colours are fitted on the first.
        out: an existing folder.
        attention: name of the float model, and (show or more, heads, P) of its last class token.
        show: at most this many images get pictures.

    Raises:
        DataError: the patches are all alike.
        BackendMissing: the report extra is not installed.
    """
    names, found = list(features), list(features.values())
    colours = ForegroundColours.fit(found[0].patches, found[0].grid)
    photos = to_pixels(images.pixel_values, images.preprocess)
    near = [nearest(each.cls, each.cls, min(RECALL_DEPTH, len(each) - 1)) for each in found]
    drift = measure_drift(*found) if len(found) == 2 else None
    shown = []
    for i in range(min(show, len(images))):
        painted = [colours.paint(each.patches[i], each.grid) for each in found]
        sheets = [strip([photos[j] for j in (i, *order[i])]) for order in near]
        maps = None if attention is None else strip(attention_tiles(photos[i], attention[1][i], found[0].grid))
        _save(out, f"{i:03d}_photo", photos[i])
        for name, picture, sheet in zip(names, painted, sheets, strict=True):
            _save(out, f"{i:03d}_pca_{_slug(name)}", enlarged(picture, photos[i]))
            _save(out, f"{i:03d}_neighbours_{_slug(name)}", sheet)
        if maps is not None:
            _save(out, f"{i:03d}_attention", maps)
        shown.append(
            Shown(
                images.paths[i],
                data_uri(photos[i]),
                [data_uri(picture, sharp=True) for picture in painted],
                [data_uri(sheet) for sheet in sheets],
                [[images.paths[j] for j in order[i]] for order in near],
                None if maps is None else data_uri(maps),
            )
        )
    page = out / "index.html"
    page.write_text(
        render(
            "visualization.html",
            names=names,
            shown=shown,
            total=len(images),
            source=Path(images.source).name,
            attention=None if attention is None else attention[0],
            agreement=None if drift is None else sum(image.nearest_same for image in drift.images),
            patch_cosine=None if drift is None else drift.patch_cosine.mean,
        ),
        encoding="utf-8",
    )
    return page


def attention_tiles(photo: np.ndarray, attention: np.ndarray, grid: tuple[int, int]) -> list[np.ndarray]:
    """The photo (H, W, 3), the mean over heads, then every head (heads, P), each laid over it."""
    maps = [attention.mean(axis=0), *attention]
    return [photo, *(heat_tile(photo, values / max(float(values.max()), 1e-12), grid) for values in maps)]


def _save(out: Path, name: str, picture: np.ndarray) -> None:
    Image.fromarray(picture).save(out / f"{name}.png", optimize=True)


def _slug(name: str) -> str:
    return name.replace("/", "_")
