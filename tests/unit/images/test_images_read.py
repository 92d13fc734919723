"""Every kind of PNG, JPEG and WebP becomes upright RGB; the eval transform is the official one; bad files say why."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor

from edgekit.artifact import Preprocess
from edgekit.errors import DataError
from edgekit.images import preprocess, read, read_image, to_pixels

SIZE = (40, 30)  # width, height


def picture() -> Image.Image:
    """Smooth, and different in each corner and channel."""
    x, y = np.meshgrid(np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1]))
    return Image.fromarray((255 * np.stack((x, y, 1 - x * y), axis=-1)).astype(np.uint8))


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG", "a.webp"])
def test_formats(name, tmp_path):
    options = {"quality": 95} if name != "a.png" else {}
    picture().save(tmp_path / name, **options)
    read = read_image(tmp_path / name)
    assert read.mode == "RGB"
    assert np.abs(rgb(read) - rgb(picture())).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {
        1: [],
        2: ["FLIP_LEFT_RIGHT"],
        3: ["ROTATE_180"],
        4: ["FLIP_TOP_BOTTOM"],
        5: ["TRANSPOSE"],
        6: ["ROTATE_90"],
        7: ["TRANSVERSE"],
        8: ["ROTATE_270"],
    }[orientation]  # what the camera did, undone by the reader
    stored = picture()
    for step in turned:
        stored = stored.transpose(Image.Transpose[step])
    stored.save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(rgb(read_image(tmp_path / "phone.png")), rgb(picture()))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_transparency_is_laid_on_white(mode, tmp_path):
    colour = Image.new("RGBA", SIZE, (0, 0, 0, 255))
    colour.paste((0, 0, 0, 0), (0, 0, 20, 30))  # left half fully transparent black
    if mode in ("P", "PA"):
        image = Image.new("P", SIZE, 1)
        image.putpalette([0, 0, 0] * 2)
        image.paste(0, (0, 0, 20, 30))
        image.save(tmp_path / "alpha.png", transparency=0)
    else:
        colour.convert(mode).save(tmp_path / "alpha.png")
    read = rgb(read_image(tmp_path / "alpha.png"))
    assert (read[:, :20] == 255).all()
    assert (read[:, 20:] == 0).all()


def test_half_transparency_is_mixed_with_white(tmp_path):
    Image.new("RGBA", SIZE, (100, 0, 200, 128)).save(tmp_path / "half.png")
    expected = np.array([100, 0, 200]) * 128 / 255 + 255 * 127 / 255
    assert np.abs(rgb(read_image(tmp_path / "half.png"))[0, 0] - expected).max() <= 1


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_becomes_three_equal_channels(mode, tmp_path):
    picture().convert(mode).save(tmp_path / "grey.png")
    read = rgb(read_image(tmp_path / "grey.png"))
    assert np.array_equal(read, np.repeat(rgb(picture().convert(mode).convert("L"))[..., None], 3, axis=-1))


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    Image.new("RGB", SIZE, (200, 40, 90)).convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert np.abs(rgb(read_image(tmp_path / "print.jpg"))[15, 20] - (200, 40, 90)).max() <= 4


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    read = rgb(read_image(tmp_path / "deep.png"))
    assert np.abs(read[..., 0] - levels / 257).max() <= 0.5
    assert np.array_equal(read[..., 0], read[..., 2])


def test_sixteen_bit_colour(tmp_path):
    """Pillow cannot write it, so the PNG is put together here."""
    row = b"\0" + struct.pack(">HHH", 65535, 32768, 0) * 2

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert np.abs(rgb(read_image(tmp_path / "deep.png"))[0, 1] - (255, 128, 0)).max() <= 1


def test_what_cannot_be_read_says_why(tmp_path):
    for name in ("cut.png", "cut.jpg", "cut.webp"):
        picture().resize((400, 300)).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError, match=path.name) as caught:
            read_image(path)
        assert caught.value.why
    with pytest.raises(DataError, match="empty"):
        read_image(tmp_path / "empty.jpg")
    with pytest.raises(DataError, match="No such file"):
        read_image(tmp_path / "absent.png")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (16000, 16000)).save(tmp_path / "bomb.png")
    with pytest.raises(DataError, match="178 megapixels"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("kind", ["EPS", "BMP", "TIFF", "TGA", "ICO", "PCX", "PPM", "GIF", "DDS", "JPEG2000"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_only_the_three_formats_are_decoded_whatever_a_file_is_called(kind, suffix, tmp_path, monkeypatch):
    """Pillow starts `gs` from PATH for an EPS: here one that leaves a trace."""
    ran = tmp_path / "ghostscript-ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", str(tmp_path / "gs"))
    path = tmp_path / f"picture{suffix}"
    picture().save(path, format=kind)
    with pytest.raises(DataError, match="not a PNG, JPEG or WebP image"):
        read_image(path)
    assert not ran.exists()


def test_garbage_in_exif_does_not_spoil_a_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    good = exif.tobytes()
    broken = (b"Exif\0\0MM\0*", b"Exif\0\0" + b"\xff" * 40, good[:14], good.replace(b"\x06", b"\xee"))
    for n, data in enumerate(broken):
        picture().save(tmp_path / f"{n}.jpg", exif=data, quality=95)
        assert np.abs(rgb(read_image(tmp_path / f"{n}.jpg")) - rgb(picture())).mean() < 3


def test_pipes_and_devices_are_no_pictures(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path / "nul\0.png"):
        with pytest.raises(DataError, match="cannot read"):
            read_image(path)


PEAK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from edgekit.artifact import Preprocess
from edgekit.images import preprocess
def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
before = memory("VmRSS")
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda _: preprocess(Path(sys.argv[1]), Preprocess.for_size(56, 56)), range(int(sys.argv[2]))))
print(memory("VmHWM") - before)
"""


def peak_of(path: Path, copies: int) -> int:
    """Bytes of memory that reading `path` takes in a process of its own, so many times at once."""
    command = [sys.executable, "-c", PEAK, str(path), str(copies)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("kind", ["deep grey", "RGBA", "palette with alpha", "WebP"])
def test_a_picture_takes_no_more_memory_than_its_budget(kind, tmp_path):
    side = 3000
    path = tmp_path / ("large.webp" if kind == "WebP" else "large.png")
    match kind:
        case "deep grey":
            Image.fromarray(np.zeros((side, side), np.uint16)).save(path, compress_level=1)
        case "RGBA" | "WebP":
            options = {"lossless": True, "quality": 0, "method": 0} if kind == "WebP" else {"compress_level": 1}
            Image.new("RGBA", (side, side), (1, 2, 3, 4)).save(path, **options)
        case "palette with alpha":
            Image.new("P", (side, side), 1).save(path, transparency=1, compress_level=1)
    per_pixel = read._BYTES_OF_WEBP if kind == "WebP" else read._BYTES_PER_PIXEL
    assert peak_of(path, 1) < per_pixel * side * side + 60e6  # strips, and what Pillow itself loads


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_eight_large_pictures_at_once_wait_for_one_another(tmp_path):
    Image.fromarray(np.zeros((13_300, 13_300), np.uint16)).save(tmp_path / "large.png", compress_level=1)
    assert peak_of(tmp_path / "large.png", 8) < read._MOST_BYTES + 300e6


def test_two_threads_never_hold_more_than_the_budget():
    budget, held, peaks = read._Budget(10), [], []

    def take(wanted: int) -> None:
        with budget.share(wanted):
            held.append(wanted)
            peaks.append(sum(held))
            time.sleep(0.001)
            held.remove(wanted)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, [1, 4, 6, 10, 3, 7, 2, 9] * 4))
    assert len(peaks) == 32
    assert max(peaks) <= 10


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (300, 300), (100, 731), (33, 33)], ids=str)
@pytest.mark.parametrize("crop", [224, 518])
def test_the_transform_equals_the_official_one(size, crop):
    """Resize and normalisation as Hugging Face's processor, crop where torchvision puts it (the two differ there)."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    transform = Preprocess.for_size(crop, crop)
    processor = BitImageProcessor(
        size={"shortest_edge": transform.resize},
        do_center_crop=False,
        resample=Image.Resampling.BICUBIC,
        image_mean=list(transform.mean),
        image_std=list(transform.std),
    )
    resized = processor(image, return_tensors="np")["pixel_values"][0]
    top, left = (int(round((side - crop) / 2.0)) for side in resized.shape[1:])  # noqa: RUF046 - as torchvision has it
    expected = resized[:, top : top + crop, left : left + crop]
    got = preprocess(image, transform)
    assert got.shape == (3, crop, crop)
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() < 1e-5


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (300, 300)], ids=str)
@pytest.mark.parametrize("crop", [(224, 448), (448, 224), (224, 238)], ids=str)
def test_a_crop_of_another_shape_is_always_filled(size, crop):
    plain = preprocess(Image.new("RGB", size, "white"), Preprocess.for_size(*crop, normalize="graph"))
    assert plain.shape == (3, *crop)
    assert plain.min() == 255


def test_a_black_and_a_white_pixel_land_where_imagenet_puts_them():
    transform = Preprocess.for_size(224, 224)
    black = preprocess(Image.new("RGB", (256, 256)), transform)
    white = preprocess(Image.new("RGB", (256, 256), "white"), transform)
    assert np.allclose(black[:, 0, 0], -np.array(transform.mean) / transform.std, atol=1e-6)
    assert np.allclose(white[:, 9, 9], (1 - np.array(transform.mean)) / transform.std, atol=1e-6)


@pytest.mark.parametrize("size", [(224, 224), (224, 448), (448, 224), (14, 14)], ids=str)
def test_other_shapes(size):
    out = preprocess(picture(), Preprocess.for_size(*size))
    assert out.shape == (3, *size)
    assert out.flags.c_contiguous


def test_a_graph_that_normalises_gets_plain_pixels():
    plain = preprocess(picture(), Preprocess.for_size(224, 224, normalize="graph"))
    hosted = Preprocess.for_size(224, 224)
    assert plain.min() >= 0
    assert plain.max() > 200
    normalised = (torch.from_numpy(plain) / 255 - torch.tensor(hosted.mean)[:, None, None]) / torch.tensor(hosted.std)[
        :, None, None
    ]
    assert np.allclose(normalised.numpy(), preprocess(picture(), hosted), atol=1e-5)


@pytest.mark.parametrize("normalize", ["host", "graph"])
def test_pixels_can_be_had_back_for_thumbnails(normalize):
    transform = Preprocess.for_size(56, 56, normalize=normalize)
    values = preprocess(picture(), transform)
    batch = to_pixels(np.stack((values, values)), transform)
    assert batch.shape == (2, 56, 56, 3)
    assert batch.dtype == np.uint8
    plain = preprocess(picture(), Preprocess.for_size(56, 56, normalize="graph"))
    assert np.array_equal(batch[1], plain.transpose(1, 2, 0))


def test_an_image_too_thin_to_resize_is_refused():
    with pytest.raises(DataError, match="too thin: 1 x 20000"):
        preprocess(Image.new("RGB", (1, 20_000)), Preprocess.for_size(224, 224))
