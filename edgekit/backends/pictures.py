"""Pictures of any kind as the input of an artifact, and its outputs with the grid of patches that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.artifact import OUTPUT_NAMES, Preprocess
from edgekit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgekit.images.fit import Resize

    Picture = Image | Path | str | np.ndarray

_KINDS_OF_PICTURE = (
    "a picture or several (PIL image, path, RGB uint8 array (H, W, 3)), or pixel_values, a float32 array (B, 3, H, W)"
)


class Outputs(dict[str, np.ndarray]):
    """Every output of an artifact by name, and the (rows, columns) of patches of its images."""

    def __init__(self, outputs: Mapping[str, np.ndarray], grid: tuple[int, int]) -> None:
        super().__init__(outputs)
        self.grid = grid

    @property
    def patches(self) -> np.ndarray:
        """The features of the patches in their places: (B, rows, columns, D)."""
        tokens, (rows, columns) = self[OUTPUT_NAMES[0]], self.grid
        return tokens[:, tokens.shape[1] - rows * columns :].reshape(len(tokens), rows, columns, -1)


def prepared(
    pictures: Sequence[Picture], transform: Preprocess, resize: Resize | None, side: int | None
) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels (B, 3, H, W) float32 of pictures, and their patches as (rows, columns).

    Args:
        pictures: one or more.
        transform: of the file. One of a fixed size crops by its own transform, unless `resize` is given.
        resize: see `edgekit.images.fit.Resize`; None is "shortest" for a file of any size.
        side: see `edgekit.images.fit.fitted`.

    Raises:
        DataError: a picture that cannot be read, does not fit, or becomes another size than the others.
    """
    from edgekit.images import preprocess
    from edgekit.images.fit import fitted
    from edgekit.images.preprocess import whole

    if resize is None and side is None and transform.sides is None:
        return np.stack([preprocess(rgb(picture), transform) for picture in pictures]), transform.grid
    images = [rgb(picture) for picture in pictures]
    sizes = [fitted((image.height, image.width), transform, resize or "shortest", side) for image in images]
    if other := next((size for size in sizes if size != sizes[0]), None):
        shown = ["x".join(map(str, size)) for size in (sizes[0], other)]
        raise DataError(
            f"the pictures become {shown[0]} and {shown[1]} pixels",
            why="features of different grids are no one array",
            fix="[model(picture) for picture in pictures]",
        )
    pixels = np.stack([whole(image, transform, size) for image, size in zip(images, sizes, strict=True)])
    return pixels, transform.at(*sizes[0]).grid


def several(images: object) -> Sequence[Picture]:
    """The pictures that were given, one of them as a list of its own.

    Raises:
        DataError: none, or what is no picture.
    """
    from PIL.Image import Image

    if isinstance(images, np.ndarray) and images.ndim == 4:
        pictures = list(images)
    else:
        pictures = list(images) if isinstance(images, Sequence) and not isinstance(images, str | bytes) else [images]
    if not pictures:
        raise DataError("no picture was given", why=f"the model takes {_KINDS_OF_PICTURE}", fix="give it one or more")
    for picture in pictures:
        if not isinstance(picture, np.ndarray | str | Path | Image):
            tensor = type(picture).__module__.partition(".")[0] == "torch"
            raise DataError(
                f"{shown(picture)} is no picture",
                why=f"the model takes {_KINDS_OF_PICTURE}",
                fix="pass tensor.numpy()" if tensor else "model(Path('picture.jpg'))",
            )
        if isinstance(picture, Image) and not all(picture.size):
            raise DataError(f"a picture of {picture.width} x {picture.height} pixels", why="it is empty")
    return pictures


def shown(value: object) -> str:
    """A value for a message: its type, and what it is where that is short."""
    text = repr(value) if isinstance(value, int | float | str | bytes | bool) else ""
    return "None" if value is None else f"{type(value).__name__} {text[:60]}".strip()


def rgb(picture: Picture) -> Image:
    """The picture as RGB."""
    from PIL import Image

    from edgekit.images import read_image

    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
            raise DataError(
                f"an array of {picture.dtype} and shape {picture.shape} is no picture",
                why=f"the model takes {_KINDS_OF_PICTURE}",
                fix="astype(np.uint8) for RGB, astype(np.float32) for pixel_values",
            )
        return Image.fromarray(picture)
    if isinstance(picture, str | Path):
        return read_image(Path(picture))
    try:
        return picture.convert("RGB")
    except Exception as error:  # Pillow decodes an opened file only now, and raises whatever its bytes lead to
        raise DataError(
            "a picture cannot be decoded", why=str(error) or type(error).__name__, fix="open it again from a whole file"
        ) from None
