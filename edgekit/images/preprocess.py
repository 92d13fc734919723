"""The official eval transform in PIL and numpy: bicubic resize, centre crop or none, the model's mean and deviation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.artifact import Preprocess
from edgekit.errors import DataError
from edgekit.images.read import decoded

_MAX_RESIZED_PIXELS = 100_000_000


def preprocess(image: Image.Image | Path, transform: Preprocess) -> np.ndarray:
    """Pixels (3, H, W) float32 for a model: ImageNet-normalised, or RGB 0..255 when the graph normalises.

    The same steps and roundings as torchvision's Resize and CenterCrop in facebookresearch/dinov2
    (dinov2/data/transforms.py, make_classification_eval_transform). It knows square crops only; where another crop
    would reach beyond the resized image, the image is enlarged until it covers the crop. With `whole_image` the same as
    transformers' DPTImageProcessor on Pillow.

    Raises:
        DataError: unreadable file, or so thin an image that it cannot be resized in memory.
    """
    if isinstance(image, Path):
        with decoded(image) as picture:
            crop = _cropped(picture, transform, str(image))
    else:
        crop = _cropped(image.convert("RGB"), transform, "the image")
    return pixels_of(np.asarray(crop), transform)


def whole(image: Image.Image, transform: Preprocess, size: tuple[int, int]) -> np.ndarray:
    """Pixels (3, H, W) float32 of a whole RGB image resized to `size` (H, W): nothing is cropped."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return pixels_of(np.asarray(image), transform)


def pixels_of(crop: np.ndarray, transform: Preprocess) -> np.ndarray:
    """Pixels (3, H, W) float32 of a crop (H, W, 3) uint8, normalised unless the graph does it."""
    pixels: np.ndarray = crop.astype(np.float32)
    if transform.normalize == "host":
        pixels = (pixels / 255 - _per_channel(transform.mean)) / _per_channel(transform.std)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _cropped(picture: Image.Image, transform: Preprocess, name: str) -> Image.Image:
    """Resized and cropped, in 8 bits."""
    height, width = transform.input_size
    size, (left, top) = placed(picture.size, transform)
    if size[0] * size[1] > _MAX_RESIZED_PIXELS:
        raise DataError(f"{name} is too thin: {picture.width} x {picture.height} pixels become {size[0]} x {size[1]}")
    return picture.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))


def placed(size: tuple[int, int], transform: Preprocess) -> tuple[tuple[int, int], tuple[int, int]]:
    """Placement of a picture of (width, height): its size before the crop, and the crop's (left, top) in that."""
    if transform.whole_image is not None:
        return (transform.input_size[1], transform.input_size[0]), (0, 0)
    width, height = _resized(size, transform)
    crop_height, crop_width = transform.input_size
    return (width, height), (round((width - crop_width) / 2), round((height - crop_height) / 2))


def _resized(size: tuple[int, int], transform: Preprocess) -> tuple[int, int]:
    """The size (width, height) before the crop: the shorter edge as the transform says, or as the crop needs."""
    short, long = transform.resize, int(transform.resize * max(size) / min(size))
    width, height = (short, long) if size[0] <= size[1] else (long, short)
    crop_height, crop_width = transform.input_size
    missing = max(crop_width / width, crop_height / height)
    if missing > 1:
        width, height = max(crop_width, round(width * missing)), max(crop_height, round(height * missing))
    return width, height


def to_pixels(pixel_values: np.ndarray, transform: Preprocess) -> np.ndarray:
    """Pictures (..., H, W, 3) uint8, for thumbnails, of pixels (..., 3, H, W) from `preprocess`."""
    pixels = np.moveaxis(pixel_values, -3, -1)
    if transform.normalize == "host":
        pixels = (pixels * _per_channel(transform.std) + _per_channel(transform.mean)) * 255
    rounded: np.ndarray = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return rounded


def _per_channel(values: tuple[float, float, float]) -> np.ndarray:
    return np.array(values, dtype=np.float32)
