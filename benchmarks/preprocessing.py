"""How far embeddings move when a picture is prepared otherwise: the ways of other platforms, and common mistakes.

    edgekit build --model demo --format onnx --precision fp32,w8a8 --out OUT
    python -m benchmarks.preprocessing OUT [--csv benchmarks/results/preprocessing.csv]

The same FP32 model sees the same photographs (those that scikit-image and scikit-learn ship, 300 to 1411 pixels on the
shorter side), prepared by edgekit and otherwise; the last row is what INT8 costs, to compare with (it was calibrated on
parts of nine of them). Needs `pip install simplejpeg`, and Chromium for the canvas row.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

import edgekit
from benchmarks.support.canvas import chromium, draw
from benchmarks.support.rows import write_csv
from edgekit.artifact import Preprocess
from edgekit.images import preprocess, to_pixels
from edgekit.images.demo import PHOTOGRAPHS
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features, features_of

Way = Callable[[Image.Image], np.ndarray]  # a picture as (H, W, 3) levels of 0..255
QUALITY = 90  # of the JPEG files that the decoder rows read


def resized(transform: Preprocess, resize: Callable[[Image.Image, int, int], np.ndarray]) -> Way:
    """Another resize, then edgekit's crop."""

    def way(picture: Image.Image) -> np.ndarray:
        left, top, width, height = box_of(picture, transform)
        crop_height, crop_width = transform.input_size
        return resize(picture, width, height)[top : top + crop_height, left : left + crop_width]

    return way


def box_of(picture: Image.Image, transform: Preprocess) -> tuple[int, int, int, int]:
    """Left and top of edgekit's crop, width and height of the whole resized picture."""
    scale = transform.resize / min(picture.size)
    width, height = (max(transform.resize, int(side * scale + 1e-9)) for side in picture.size)
    crop_height, crop_width = transform.input_size
    return round((width - crop_width) / 2), round((height - crop_height) / 2), width, height


def pillow(filter_: Image.Resampling) -> Callable[[Image.Image, int, int], np.ndarray]:
    """One of Pillow's filters, which all widen when they shrink."""
    return lambda picture, width, height: np.asarray(picture.resize((width, height), filter_))


def plain(mode: str) -> Callable[[Image.Image, int, int], np.ndarray]:
    """Interpolation of 2x2 or 4x4 pixels however much it shrinks, as OpenCV's INTER_LINEAR and INTER_CUBIC."""

    def resize(picture: Image.Image, width: int, height: int) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        small = torch.nn.functional.interpolate(pixels, (height, width), mode=mode, align_corners=False)
        return small[0].permute(1, 2, 0).round().clamp(0, 255).numpy().astype(np.uint8)

    return resize


def decoded(picture: Image.Image, *, fast: bool) -> Image.Image:
    """Out of a JPEG file: by the standard decoder, or with its faster DCT and chroma upsampling."""
    file = simplejpeg.encode_jpeg(np.array(picture), QUALITY, colorsubsampling="420")
    return Image.fromarray(simplejpeg.decode_jpeg(file, fastdct=fast, fastupsample=fast))


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """Saved and read again."""
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=quality)
    return Image.open(held).convert("RGB")


def ways(
    transform: Preprocess, pictures: list[Image.Image]
) -> Iterator[tuple[str, list[np.ndarray], np.ndarray | None]]:
    """Name, `pixel_values` prepared that way, and what they are compared with where that is not the photograph."""
    right = lambda picture: to_pixels(preprocess(picture, transform), transform)  # noqa: E731
    whole = transform.model_copy(update={"resize": min(transform.input_size)})
    filters = {
        "bilinear": Image.Resampling.BILINEAR,
        "Lanczos": Image.Resampling.LANCZOS,
        "box": Image.Resampling.BOX,
        "nearest": Image.Resampling.NEAREST,
    }
    crops: dict[str, Way] = {
        **{f"resize: {name}, Pillow": resized(transform, pillow(filter_)) for name, filter_ in filters.items()},
        "resize: bicubic without antialias (OpenCV INTER_CUBIC)": resized(transform, plain("bicubic")),
        "resize: bilinear without antialias (OpenCV INTER_LINEAR, Bitmap.createScaledBitmap)": resized(
            transform, plain("bilinear")
        ),
        "crop: shortest edge to 224, not 256": lambda picture: to_pixels(preprocess(picture, whole), whole),
        "crop: none, squashed to a square": lambda picture: np.asarray(picture.resize(transform.input_size[::-1], 3)),
        "EXIF: orientation 6 ignored": lambda picture: right(picture.transpose(Image.Transpose.ROTATE_90)),
        "channels: BGR": lambda picture: right(picture)[..., ::-1],
        "JPEG: quality 90": lambda picture: right(as_jpeg(picture, 90)),
        "JPEG: quality 50": lambda picture: right(as_jpeg(picture, 50)),
    }
    for name, way in crops.items():
        yield name, [normalised(way(picture), transform) for picture in pictures], None
    if chromium():
        boxes = [box_of(picture, transform) for picture in pictures]
        shown = draw(pictures, boxes, transform.input_size)
        yield "resize: canvas of Chromium", [normalised(crop, transform) for crop in shown], None
    given = np.stack([preprocess(decoded(picture, fast=False), transform) for picture in pictures])
    fast = [preprocess(decoded(picture, fast=True), transform) for picture in pictures]
    yield "JPEG: fast DCT and upsampling, same file", fast, given
    levels = [right(picture).astype(np.float32).transpose(2, 0, 1) for picture in pictures]
    yield "normalisation: 0..1 alone", [values / 255 for values in levels], None
    yield "normalisation: mean and deviation 0.5", [values / 127.5 - 1 for values in levels], None


def normalised(crop: np.ndarray, transform: Preprocess) -> np.ndarray:
    """(H, W, 3) levels -> (3, H, W) float32."""
    mean, std = np.float32(transform.mean), np.float32(transform.std)
    return np.ascontiguousarray(((crop.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1))


def measure(build: Path) -> list[dict[str, object]]:
    """One row per way."""
    model = edgekit.load(build / "onnx" / "model.onnx")
    transform = model.artifact.preprocess
    pictures = [photograph.open() for photograph in PHOTOGRAPHS]
    right = np.stack([preprocess(picture, transform) for picture in pictures])
    reference = features_of(model.runner, right, patch=transform.patch)
    rows = []
    for name, values, other in ways(transform, pictures):
        given = right if other is None else other
        expected = reference if other is None else features_of(model.runner, other, patch=transform.patch)
        pixels = np.stack(values)
        levels = np.abs((pixels - given) * np.float32(transform.std)[:, None, None] * 255).mean()
        rows.append(_row(name, float(levels), expected, features_of(model.runner, pixels, patch=transform.patch)))
        print("  ".join(f"{value}" for value in rows[-1].values()), flush=True)
    quantized = edgekit.load(
        next(
            path
            for path in (build / "onnx").glob("model_*")
            if path.name in ("model_w8a8.onnx", "model_quantized.onnx")
        )
    )
    rows.append(
        _row("INT8 instead: onnx/w8a8", 0.0, reference, features_of(quantized.runner, right, patch=transform.patch))
    )
    print("  ".join(f"{value}" for value in rows[-1].values()))
    return rows


def _row(name: str, levels: float, reference: Features, other: Features) -> dict[str, object]:
    drift = measure_drift(reference, other)
    return {
        "way": name,
        "photographs": drift.n,
        "mean_levels": round(levels, 2),
        "cls_cosine": round(drift.cls_cosine.mean, 5),
        "cls_cosine_min": round(drift.cls_cosine.min, 5),
        "patch_cosine": round(drift.patch_cosine.mean, 5),
        "sqnr_db": round(drift.sqnr_db.value, 1),
    }


def main() -> None:
    """Measure, print, and write the CSV if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="a build folder or a bundle, with onnx/fp32 and onnx/w8a8")
    parser.add_argument("--csv", type=Path, help="also write the rows there")
    options = parser.parse_args()
    rows = measure(options.build)
    write_csv(rows, options.csv)


if __name__ == "__main__":
    main()
