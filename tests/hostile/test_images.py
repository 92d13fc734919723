"""Pictures that are something else, damaged or far too large, and folders of odd names."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.artifact import Preprocess
from edgekit.errors import DataError
from edgekit.images.boxes import read_boxes
from edgekit.images.listing import Listing
from edgekit.images.preprocess import preprocess
from edgekit.images.read import read_image
from edgekit.images.sets import load_set
from tests.support.hostile import refused

_TRANSFORM = Preprocess.for_size(56, 56)


def _encoded(kind: str, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 3).save(stream, kind)
    return stream.getvalue()


def _png_of(width: int, height: int, kind: int = 2) -> bytes:
    """The header of a PNG that claims a size, and no more than that."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


Image.init()  # all codecs, which Pillow would else load as they are asked for
_OTHERS = ("BMP", "TIFF", "TGA", "ICO", "PCX", "SGI", "DDS", "JPEG2000", "PPM", "GIF", "IM", "MSP", "EPS", "PDF")
_BYTES: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "nul": b"\0" * 1000,
    "noise": np.random.default_rng(0).bytes(5000),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "a png of 4e9 x 4e9": _png_of(2**32 - 1, 2**32 - 1),
    "a png of 0 x 0": _png_of(0, 0),
    "a png of 100,000 x 100,000": _png_of(100_000, 100_000),
    "a png without pixels": _png_of(40, 30),
    "a png of colour type 77": _png_of(40, 30, 77),
    "half a png": _encoded("PNG")[:60],
    "half a jpeg": _encoded("JPEG")[:300],
    "half a webp": _encoded("WEBP")[:30],
    **{kind: _encoded(kind, mode="1" if kind == "MSP" else "RGB") for kind in _OTHERS if kind.upper() in Image.SAVE},
}


@pytest.mark.parametrize("case", _BYTES)
def test_bytes_that_are_no_picture_are_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "a.png").write_bytes(_BYTES[case])
    refused(lambda: read_image(tmp_path / "a.png"))
    refused(lambda: load_set(tmp_path, _TRANSFORM, samples=None))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("seed", range(6))
def test_a_picture_with_flipped_bits_is_read_or_refused(tmp_path: Path, kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for _ in range(30):
        data = bytearray(_encoded(kind))
        for place in generator.integers(0, len(data), 8):
            data[place] ^= 1 << int(generator.integers(8))
        (tmp_path / "a.png").write_bytes(bytes(data))
        with suppress(DataError):
            assert read_image(tmp_path / "a.png").mode == "RGB"


def _plant(folder: Path, kind: str) -> None:
    path = folder / f"{kind[:3]}.png"
    match kind:
        case "loop":
            path.symlink_to(path)
        case "dangling":
            path.symlink_to(folder / "nowhere")
        case "long target":
            path.symlink_to("x" * 1000)
        case "through a file":
            path.symlink_to(folder / "good.png" / "x")
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case "not utf-8":
            os.rename(_good(folder, "other.png"), os.fsencode(folder) + b"/caf\xe9.png")
        case "folder not utf-8":
            os.mkdir(os.fsencode(folder) + b"/f\xff")
            os.rename(_good(folder, "other.png"), os.fsencode(folder) + b"/f\xff/a.png")
        case "markup":
            _good(folder, "[red]x[bold].png")


def _good(folder: Path, name: str) -> Path:
    Image.new("RGB", (60, 60), (1, 2, 3)).save(folder / name)
    return folder / name


_TOLD = ("loop", "long target", "through a file", "not utf-8", "folder not utf-8")
_PLANTED = (*_TOLD, "dangling", "pipe", "folder", "device", "markup")


@pytest.mark.parametrize("kind", _PLANTED)
def test_one_odd_entry_does_not_spoil_a_folder(tmp_path: Path, kind: str) -> None:
    _good(tmp_path, "good.png")
    _plant(tmp_path, kind)
    found = Listing.scan(tmp_path)
    assert "good.png" in found.paths
    assert len(found.skipped) == (kind in _TOLD)
    for path in (*found.paths, *(name for pair in found.skipped for name in pair)):
        path.encode("utf-8")
    images = load_set(tmp_path, _TRANSFORM, samples=None)
    assert "good.png" in images.paths
    assert [skip.path for skip in images.skipped] == [name for name, _ in found.skipped]


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "loop", "pipe"])
def test_a_folder_without_pictures_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photos"
    match kind:
        case "file":
            path.write_text("x")
        case "empty":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "pipe":
            os.mkfifo(path)
    refused(lambda: Listing.scan(path))


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (60_000, 3)])
def test_a_picture_too_thin_to_resize_is_refused(size: tuple[int, int]) -> None:
    refused(lambda: preprocess(Image.new("RGB", size), Preprocess.for_size(1400, 1400)))


_BOXES: dict[str, Callable[[], Any]] = {
    "list": lambda: b"[]",
    "null": lambda: b"null",
    "text": lambda: b'{"good.png": "x"}',
    "numbers": lambda: b'{"good.png": [1, 2]}',
    "three": lambda: b'{"good.png": [[1, 2, 3]]}',
    "objects": lambda: b'{"good.png": [[{}, {}, {}, {}]]}',
    "deep": lambda: b"[" * 200_000,
    "other": lambda: b'{"other.png": [[1, 2, 3, 4]]}',
    "no utf-8": lambda: b"\xff",
    "half": lambda: b'{"good.png": [[1',
}


@pytest.mark.parametrize("case", _BOXES)
def test_boxes_that_are_none_are_refused(tmp_path: Path, case: str) -> None:
    _good(tmp_path, "good.png")
    (tmp_path / "boxes.json").write_bytes(_BOXES[case]())
    refused(lambda: read_boxes(tmp_path / "boxes.json", tmp_path, ["good.png"], _TRANSFORM))
