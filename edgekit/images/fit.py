"""The size at which a whole picture is given to a file that takes any: nothing is cropped, nothing padded."""

from __future__ import annotations

from typing import Literal

from edgekit.artifact import Preprocess
from edgekit.errors import DataError

Resize = Literal["shortest", "exact", "keep-aspect"]
"""How a whole picture becomes an input: "shortest" scales its shorter side to a length, "keep-aspect" leaves its size
but for the rounding to patches (a picture beyond the range is scaled into it), "exact" takes its pixels as they are."""
RESIZES: tuple[Resize, ...] = ("shortest", "exact", "keep-aspect")
_ONE_SIZE = "the file takes {} alone, and crops to it by its own transform"


def fitted(picture: tuple[int, int], transform: Preprocess, resize: Resize, side: int | None = None) -> tuple[int, int]:
    """The size (height, width) at which a picture of (height, width) pixels is run: multiples of the patch.

    Sides are rounded to the nearest multiple, so that the aspect ratio may change by half a patch a side.

    Args:
        picture: its own size.
        transform: of the file.
        resize: how.
        side: length of the shorter side for "shortest"; None takes that of the file's own size.

    Raises:
        DataError: an unknown word, a size or an aspect ratio that the file does not take; names the nearest size.
    """
    if resize not in RESIZES:
        raise DataError(f"resize = {resize!r}", why=f"known are {', '.join(RESIZES)}", fix='resize="shortest"')
    if side is not None and (not isinstance(side, int) or isinstance(side, bool) or side < 1):
        raise DataError(f"side = {str(side)[:40]!r}", why="it is a number of pixels", fix="side=224")
    if resize == "exact":
        transform.at(*picture)
        return picture
    if transform.sides is None:
        size = "x".join(map(str, transform.input_size))
        raise DataError(
            f'resize = "{resize}" of a file of one size',
            why=_ONE_SIZE.format(size),
            fix="leave resize out, or edgekit build --image-size dynamic",
        )
    scale = _scale(picture, transform.sides, resize, side or min(transform.input_size))
    wanted = picture[0] * scale, picture[1] * scale
    found = transform.nearest_size(*wanted)
    if any(abs(found[axis] - wanted[axis]) > transform.patch for axis in (0, 1)):
        least, most = transform.sides
        raise DataError(
            f"a picture of {picture[0]}x{picture[1]} pixels becomes {wanted[0]:.0f}x{wanted[1]:.0f}",
            why=f"the file takes sides from {least} to {most} pixels",
            fix=f"the nearest size is {found[0]}x{found[1]}: crop it, or resize it yourself and say resize='exact'",
        )
    return found


def _scale(picture: tuple[int, int], sides: tuple[int, int], resize: Resize, side: int) -> float:
    """The factor by which both sides of a picture are multiplied."""
    if resize == "shortest":
        return side / min(picture)
    largest = min(1.0, sides[1] / max(picture))
    return max(largest, min(sides[0] / min(picture), sides[1] / max(picture)))
