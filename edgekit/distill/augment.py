"""Augmentations of DINOv2 in Pillow: a crop, a flip, colours, blur and solarisation, all drawn from one generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from edgekit.artifact import IMAGENET_MEAN, IMAGENET_STD
from edgekit.distill.recipe import Augment

_TRIES = 10
_SOLARIZE_FROM = 128
_BLUR_SIDE = 224  # pixels of the crops for which the official blur radii are meant


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and strengths; names and meanings as in torchvision and `dinov2/data/augmentations.py`.

    `scale` is the share of the image's area that a crop takes, `ratio` its width by its height.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.0  # probability of the next four
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.0
    blur: float = 0.0
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0


AUGMENTATIONS: dict[Augment, Augmentation] = {
    "none": Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0),  # the centre square
    "light": Augmentation(scale=(0.35, 1.0), jitter=0.4, grey=0.05, blur=0.1),
    # both official views in one: blur 1 and 0.1, solarisation 0 and 0.2
    "dinov2": Augmentation(scale=(0.32, 1.0), jitter=0.8, grey=0.2, blur=0.55, solarize=0.1),
}


def augmented(picture: Image.Image, how: Augmentation, side: int, generator: np.random.Generator) -> np.ndarray:
    """An augmented crop (3, side, side) float32, ImageNet-normalised, of an RGB picture of any size."""
    box = crop_box(picture.size, how, generator)
    picture = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    if generator.random() < how.flip:
        picture = ImageOps.mirror(picture)
    if generator.random() < how.jitter:
        picture = _jittered(picture, how, generator)
    if generator.random() < how.grey:
        picture = picture.convert("L").convert("RGB")
    if generator.random() < how.blur:
        radius = generator.uniform(*how.blur_radius) * side / _BLUR_SIDE
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    if generator.random() < how.solarize:
        picture = ImageOps.solarize(picture, _SOLARIZE_FROM)
    pixels = np.asarray(picture, np.float32) / 255
    pixels = (pixels - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def crop_box(
    size: tuple[int, int], how: Augmentation, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """The crop box (left, top, right, bottom) of torchvision's RandomResizedCrop: area uniform, ratio log-uniform.

    After ten crops that do not fit, the largest centred one whose ratio is allowed.
    """
    width, height = size
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*how.scale)
        ratio = math.exp(generator.uniform(math.log(how.ratio[0]), math.log(how.ratio[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = (int(generator.integers(room + 1)) for room in (width - wide, height - high))
            return left, top, left + wide, top + high
    ratio = min(max(width / height, how.ratio[0]), how.ratio[1])
    wide, high = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _jittered(picture: Image.Image, how: Augmentation, generator: np.random.Generator) -> Image.Image:
    """torchvision's ColorJitter: brightness, contrast, saturation and hue in random order."""
    changes = (
        (ImageEnhance.Brightness, how.brightness),
        (ImageEnhance.Contrast, how.contrast),
        (ImageEnhance.Color, how.saturation),
        (None, how.hue),
    )
    for index in generator.permutation(len(changes)):
        enhancer, strength = changes[index]
        if enhancer is None:
            picture = _hue_turned(picture, generator.uniform(-strength, strength))
        else:
            picture = enhancer(picture).enhance(generator.uniform(max(0.0, 1 - strength), 1 + strength))
    return picture


def _hue_turned(picture: Image.Image, turn: float) -> Image.Image:
    """A picture with its hues turned by `turn`, a share of the whole circle."""
    hue, saturation, value = picture.convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int16) + round(turn * 256)) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")
