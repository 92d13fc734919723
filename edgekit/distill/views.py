"""Random augmentations for block reconstruction: crops, flips, CutMix, mixup, contrast and brightness."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST_AREA = 0.15  # of a crop, as share of the image's
RATIO = 4 / 3  # widest crop, in widths per height of the image; the highest is as much the other way
MIXED = 0.3  # share of views that hold a part of another one, or are blended with it
COLOURED = 0.5  # share of views with another brightness, contrast and tint


def views(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One view of each image (n, 3, H, W) of normalised pixels, within the range of the images given.

    A crop of 15 to 100 % of the area, enlarged again, every second one mirrored; then some of them are mixed and some
    coloured: recovered plans are a few tenths of a decibel better for it than for mild crops, on other kinds too.
    """
    crops = torch.stack([_crop(image, generator) for image in pixels])
    others = crops[torch.randperm(len(crops), generator=generator)]
    seen = torch.stack([_mixed(view, other, generator) for view, other in zip(crops, others, strict=True)])
    least, most = pixels.amin((0, 2, 3), keepdim=True), pixels.amax((0, 2, 3), keepdim=True)
    return torch.stack([_coloured(view, generator) for view in seen]).clamp(least, most)


def _crop(image: Tensor, generator: torch.Generator) -> Tensor:
    """A random part of an image (3, H, W), as large as the image."""
    height, width = image.shape[1:]
    area, skew, top, left, mirrored = torch.rand(5, generator=generator).tolist()
    area, ratio = LEAST_AREA + (1 - LEAST_AREA) * area, RATIO ** (2 * skew - 1)
    rows = min(height, max(1, round(height * math.sqrt(area / ratio))))
    columns = min(width, max(1, round(width * math.sqrt(area * ratio))))
    y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
    part = image[None, :, y : y + rows, x : x + columns]
    part = torch.nn.functional.interpolate(part, size=(height, width), mode="bicubic", align_corners=False)[0]
    return part.flip(-1) if mirrored < 0.5 else part


def _mixed(view: Tensor, other: Tensor, generator: torch.Generator) -> Tensor:
    """Some views get a rectangle of another one (CutMix, arXiv 1905.04899) or up to half of it everywhere (mixup)."""
    chosen, pasted, size, stretch, top, left = torch.rand(6, generator=generator).tolist()
    if chosen >= MIXED:
        return view
    if pasted >= 0.5:
        share = 0.5 + 0.4 * size
        return share * view + (1 - share) * other
    height, width = view.shape[1:]
    rows, columns = int(height * (0.3 + 0.5 * size)), int(width * (0.3 + 0.7 * stretch))
    y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
    mixed = view.clone()
    mixed[:, y : y + rows, x : x + columns] = other[:, y : y + rows, x : x + columns]
    return mixed


def _coloured(view: Tensor, generator: torch.Generator) -> Tensor:
    """Some views get another contrast and brightness, of all channels and a little of each."""
    chosen = float(torch.rand(1, generator=generator))
    contrast, brightness, *each = torch.randn(8, generator=generator).tolist()
    if chosen >= COLOURED:
        return view
    gain, shift = torch.tensor(each[:3])[:, None, None], torch.tensor(each[3:])[:, None, None]
    return view * (1 + 0.25 * contrast + 0.1 * gain) + 0.25 * brightness + 0.1 * shift
