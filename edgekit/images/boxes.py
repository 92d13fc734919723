"""True boxes of objects: read from a file and carried along through resize and crop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edgekit.artifact import Preprocess
from edgekit.errors import DataError
from edgekit.files import read_text
from edgekit.images.preprocess import placed
from edgekit.images.read import read_image

Box = tuple[float, float, float, float]  # (left, top, right, bottom), right and bottom exclusive


def read_boxes(file: Path, root: Path, paths: Sequence[str], transform: Preprocess) -> dict[str, tuple[Box, ...]]:
    """Boxes of images in pixels of the model's input; boxes that the crop cuts off wholly are left out.

    Args:
        file: JSON, {path below root: [[left, top, right, bottom], ...]} in pixels of the upright picture.
        root: the folder of images.
        paths: of the images wanted.
        transform: how pictures become model input.

    Raises:
        DataError: the file cannot be read, or names none of the images.
    """
    try:
        given: dict[str, list[list[float]]] = json.loads(read_text(file))
        found = {path: _moved(given[path], read_image(root / path).size, transform) for path in paths if path in given}
    except OSError as error:
        raise DataError(f"cannot read {file}", why=error.strerror or str(error)) from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{file} holds no boxes", why=f"wanted is {{path: [[left, top, right, bottom]]}}; {error}"
        ) from None
    if not found:
        raise DataError(
            f"{file} names none of the {len(paths)} images", why=f"paths are relative to the folder, as {paths[0]}"
        )
    return {path: boxes for path, boxes in found.items() if boxes}


def _moved(boxes: list[list[float]], size: tuple[int, int], transform: Preprocess) -> tuple[Box, ...]:
    (width, height), (left, top) = placed(size, transform)
    crop_height, crop_width = transform.input_size
    moved = []
    for x0, y0, x1, y1 in boxes:
        xs = [min(max(x * width / size[0] - left, 0.0), float(crop_width)) for x in (x0, x1)]
        ys = [min(max(y * height / size[1] - top, 0.0), float(crop_height)) for y in (y0, y1)]
        if xs[1] > xs[0] and ys[1] > ys[0]:
            moved.append((xs[0], ys[0], xs[1], ys[1]))
    return tuple(moved)
