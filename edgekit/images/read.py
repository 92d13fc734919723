"""Any PNG, JPEG or WebP file becomes an upright 8-bit RGB image, or a DataError that says why not."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgekit.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_MAX_PIXELS = 200_000_000  # beyond this a file is a decompression bomb rather than a photograph


def read_image(path: Path, data: bytes | None = None) -> Image.Image:
    """Decode a file: EXIF orientation applied, transparency laid on white, grey, CMYK, palette and 16 bit to 8-bit RGB.

    `data` are its bytes where they have been read already.

    Raises:
        DataError: missing, empty, truncated, no image, or larger than 200 megapixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours, below
            with Image.open(path if data is None else BytesIO(data)) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise DataError(
                        f"{path} has {image.width} x {image.height} pixels", why="200 megapixels are the limit"
                    )
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        size = path.stat().st_size if data is None else len(data)
        why = "the file is empty" if size == 0 else "not an image"
        raise DataError(f"cannot read {path}", why=why) from None
    # what Pillow's decoders raise on damaged bytes, over the formats
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        TypeError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise DataError(f"cannot read {path}", why=getattr(error, "strerror", None) or str(error)) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey (I;16, I;16B) or the same as 32-bit integers (I)
        levels = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(levels.clip(0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
