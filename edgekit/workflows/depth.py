"""A depth map of one photograph by a build with a depth head, in pixels of the photograph; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from edgekit.artifact import Artifact, Preprocess, TensorSpec
from edgekit.backends import load
from edgekit.errors import DataError, RecipeError
from edgekit.files import atomic_path
from edgekit.images import read_image
from edgekit.images.preprocess import placed
from edgekit.manifest import Manifest
from edgekit.measure.heads import UNITS

if TYPE_CHECKING:
    from edgekit.backends import LoadedModel

SUFFIXES = (".png", ".npy", ".npz")
Box = tuple[int, int, int, int]  # (left, top, right, bottom)


@dataclass(frozen=True)
class DepthMap:
    """The depth of a photograph: `values` (H, W) float32 in its pixels, metres or an inverse depth without unit.

    `box` is the part of the photograph that they cover, all of it unless the model crops. `input_size` is the size at
    which the model saw it, `published` the size at which its makers would have shown it, None where none is known.
    """

    values: np.ndarray
    box: Box
    output: str
    task: str
    model: str
    reason: str
    input_size: tuple[int, int]
    published: tuple[int, int] | None

    @property
    def unit(self) -> str:
        """The unit in words: "metres", or "inverse depth without unit"."""
        return UNITS[self.task]

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value."""
        return float(self.values.min()), float(self.values.max())


def map_depth(
    model: Path | str, photo: Path, outs: Sequence[Path], *, output: str | None = None, threads: int | None = None
) -> DepthMap:
    """Compute the depth map of a photograph and write it to each of `outs`.

    Of a build folder with several image sizes the one nearest to the photograph's shape is taken; the photograph is
    resized to it as the artifact says, and the map back to the photograph, bilinear.

    Args:
        model: an artifact, or a build folder (its best artifact that runs here).
        photo: a PNG, JPEG or WebP file.
        outs: `.png` gets colours, near places bright; `.npy` the values; `.npz` the values as `depth` beside `unit`
            and `box`.
        output: name of the head; None takes the only one.
        threads: of the runtime; None leaves it to it.

    Raises:
        RecipeError: another suffix, or a head that is not there or not the only one.
        DataError: no artifact, no depth head in it, or a photograph that cannot be read.
        BackendMissing: no runtime for it is here.
    """
    for out in outs:
        if out.suffix not in SUFFIXES:
            raise RecipeError(
                f"cannot write a map to {out}", why="known are " + ", ".join(SUFFIXES), fix="--out map.png"
            )
    picture = read_image(photo)
    loaded = _opened(Path(model), picture.size, threads)
    artifact = loaded.artifact
    spec = _depth_output(artifact, output)
    box = _covered(picture.size, artifact.preprocess)
    found = DepthMap(
        _resized(loaded(picture)[spec.name][0], box),
        box,
        spec.name,
        spec.task,
        artifact.name,
        loaded.reason,
        artifact.preprocess.input_size,
        _published(picture.size, artifact.preprocess),
    )
    for out in outs:
        _write(found, out)
    return found


def _opened(model: Path, size: tuple[int, int], threads: int | None) -> LoadedModel:
    """The artifact, of a build folder the best of the image size that stretches a picture (width, height) least."""
    if not (model / "manifest.json").is_file():
        return load(model, threads)
    transforms = [row.preprocess for row in Manifest.read(model).artifacts if row.preprocess and row.status == "ok"]
    if not transforms:
        return load(model, threads)  # which says what is wrong

    def stretched(transform: Preprocess) -> tuple[float, int]:
        """Distance in shape, then in size, from what the picture should become."""
        height, width = _published(size, transform) or (size[1], size[0])
        rows, columns = transform.input_size
        return round(abs(math.log(rows * width / (columns * height))), 6), abs(rows * columns - height * width)

    return load(model, threads, image_size=min(transforms, key=stretched).input_size)


def _published(size: tuple[int, int], transform: Preprocess) -> tuple[int, int] | None:
    """The published size (height, width) of a picture of (width, height)."""
    whole = transform.whole_image
    return None if whole is None else whole.size_of(size[1], size[0])


def _depth_output(artifact: Artifact, name: str | None) -> TensorSpec:
    """The output that is a depth map; the one of that name where several are."""
    found = {spec.name: spec for spec in artifact.outputs if spec.task in UNITS}
    if not found:
        raise DataError(
            f"{artifact.name} puts out no depth",
            why="its outputs are " + ", ".join(spec.name for spec in artifact.outputs),
            fix="edgekit build --model depth_anything_v2_vits --image-size 518 --out OUT",
        )
    if name is None and len(found) > 1:
        raise RecipeError(f"{artifact.name} has several depth heads", fix=f"--output {next(iter(found))}")
    if name is not None and name not in found:
        raise RecipeError(f"{artifact.name} has no depth head {name!r}", why="it has " + ", ".join(found))
    return found[name] if name is not None else next(iter(found.values()))


def _covered(size: tuple[int, int], transform: Preprocess) -> Box:
    """The part of a picture of (width, height) that the model sees."""
    (width, height), (left, top) = placed(size, transform)
    across, down = size[0] / width, size[1] / height
    rows, columns = transform.input_size
    right, bottom = min(size[0], round((left + columns) * across)), min(size[1], round((top + rows) * down))
    return max(0, round(left * across)), max(0, round(top * down)), right, bottom


def _resized(values: np.ndarray, box: Box) -> np.ndarray:
    """A map (h, w) at the size of the box, bilinear."""
    size = max(1, box[2] - box[0]), max(1, box[3] - box[1])
    return np.asarray(Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(size, Image.Resampling.BILINEAR))


def _write(found: DepthMap, out: Path) -> None:
    """Write one file, whole or not at all."""
    with atomic_path(out) as temporary:
        match out.suffix:
            case ".png":
                from edgekit.report.pictures import depth_colours

                colours = depth_colours(found.values, found.range, metric=found.task == "depth")
                Image.fromarray(colours).save(temporary, "PNG")
            case ".npy":
                with temporary.open("wb") as stream:
                    np.save(stream, found.values)
            case _:
                with temporary.open("wb") as stream:
                    np.savez(stream, depth=found.values, unit=np.array(found.unit), box=np.array(found.box))
