"""Any PNG, JPEG or WebP file becomes an upright 8-bit RGB image, or a DataError that says why not."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edgekit.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_FORMATS = ("PNG", "JPEG", "WEBP")  # by content: Pillow would start Ghostscript for an EPS that is called .png
_MOST_PIXELS = 178_000_000  # as Pillow has it: beyond this a file is a decompression bomb rather than a photograph
_MOST_BYTES = 2_000_000_000  # of memory for all pictures that a process decodes at one time
_BYTES_PER_PIXEL, _BYTES_OF_WEBP = 10, 18  # at the peak, measured: PNG 5 to 10, JPEG 8, progressive 10, WebP 16 to 18
_LARGE = 10_000_000  # pixels of a picture whose memory is worth giving back
_STRIP_PIXELS = 1 << 20  # converted at a time, so that a conversion takes little memory beside picture and result
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what Pillow's decoders raise on damaged bytes, over the formats
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, TypeError, struct.error, zlib.error, MemoryError)


class _Budget:
    """Memory that the threads of this process share: who asks for more than is left waits."""

    def __init__(self, total: int) -> None:
        self._total, self._taken, self._change = total, 0, threading.Condition()

    @contextmanager
    def share(self, wanted: int) -> Iterator[None]:
        """Hold `wanted` bytes, which are not more than there are in all."""
        with self._change:
            self._change.wait_for(lambda: self._taken + wanted <= self._total)
            self._taken += wanted
        try:
            yield
        finally:
            with self._change:
                self._taken -= wanted
                self._change.notify_all()


_budget = _Budget(_MOST_BYTES)
_opening = threading.Lock()  # `catch_warnings` changes the process, not the thread


def _after_fork() -> None:
    """Give a forked child locks and budget of its own: threads of the parent that held them are not there."""
    global _budget, _opening
    _budget, _opening = _Budget(_MOST_BYTES), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def read_image(path: Path) -> Image.Image:
    """Decode a file: EXIF orientation applied, transparency laid on white, grey, CMYK, palette and 16 bit to 8-bit RGB.

    Raises:
        DataError: missing, empty, truncated, no PNG, JPEG or WebP, or of more than 178 megapixels (WebP: 111).
    """
    with ExitStack() as held:
        return _read(path, None, held)


@contextmanager
def decoded(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """The picture as `read_image` gives it, for the block alone: its memory counts as taken, so that others wait.

    `data` are its bytes where they have been read already.

    Raises:
        DataError: as `read_image`.
    """
    with ExitStack() as held:
        picture = _read(path, data, held)
        size = picture.width * picture.height
        yield picture
        picture.close()
        if size > _LARGE:
            _give_back()


def _read(path: Path, data: bytes | None, held: ExitStack) -> Image.Image:
    """The decoded picture; `held` gets the context that gives its memory back."""
    try:
        return _decode(path, data, held)
    except UnidentifiedImageError:
        size = path.stat().st_size if data is None else len(data)
        why = "the file is empty" if size == 0 else "not a PNG, JPEG or WebP image"
        raise DataError(f"cannot read {path}", why=why) from None
    except Image.DecompressionBombError:
        raise DataError(f"cannot read {path}", why=f"more than {_MOST_PIXELS // 10**6} megapixels") from None
    except _DAMAGE as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot read {path}", why=why) from None


def _decode(path: Path, data: bytes | None, held: ExitStack) -> Image.Image:
    if data is None and not stat.S_ISREG(path.stat().st_mode):
        raise DataError(f"cannot read {path}", why="it is a folder, pipe or device")
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours, below
        image = Image.open(path if data is None else BytesIO(data), formats=_FORMATS)
    with image:
        held.enter_context(_budget.share(_needed(path, image)))
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        picture = _to_rgb(image)
    del image  # what was decoded is freed before a turned copy is made
    picture.info.clear()
    return picture if turn is None else picture.transpose(turn)


def _give_back() -> None:
    """Have glibc return freed memory: else each thread keeps it, 0.9 GB after a grey picture of 177 megapixels."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _needed(path: Path, image: Image.Image) -> int:
    """Bytes that decoding takes at its peak; raises DataError where that is more than there are."""
    per_pixel = _BYTES_OF_WEBP if image.format == "WEBP" else _BYTES_PER_PIXEL
    pixels, most = image.width * image.height, min(_MOST_PIXELS, _MOST_BYTES // per_pixel)
    if pixels > most:
        raise DataError(
            f"cannot read {path}",
            why=f"{image.width} x {image.height} pixels: {most // 10**6} megapixels are the limit of a {image.format}",
        )
    return pixels * per_pixel


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none that can be read: garbage there does not spoil a picture."""
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Corrupt EXIF data"
        try:
            return int(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # Pillow's reader of EXIF raises whatever garbage leads to
            return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    deep = image.mode.startswith("I")  # 16-bit grey (I;16, I;16B) or the same as 32-bit integers (I)
    if not deep and not image.has_transparency_data:
        return image.convert("RGB")
    picture, rows = Image.new("RGB", image.size), max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        picture.paste(_eight_bits(strip) if deep else _on_white(strip), (0, top))
    return picture


def _eight_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint(levels.clip(0, 65535) / 257).astype(np.uint8)).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
