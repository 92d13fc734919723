"""Synthetic calibration images: pure colours and flat greys, which photographs seldom hold.

A saturated colour, or an image of nearly nothing, drives the first blocks several times as far as most photographs, and
a static range that never saw it clips. Synthetic images widen ranges; weights are fitted to photographs alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILES = (1, 4, 2, 8)  # patches per side of a mosaic's tile, in turn
CONTRAST = 0.02  # of a flat probe, as share of the whole range


def synthetic_images(pixels: Tensor, count: int, patch: int) -> Tensor:
    """Mosaics of pure colours and flat greys, in turn.

    Args:
        pixels: (n, 3, H, W) calibration images; each channel's extremes are the corners of the colour cube.
        count: how many images.
        patch: pixels per patch side.

    Returns:
        (count, 3, H, W), within the range of `pixels`.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = pixels.shape[2:]
    images = [
        _flat(index // 2, height, width, generator)
        if index % 2
        else _mosaic(index // 2, height, width, patch, generator)
        for index in range(count)
    ]
    low, high = pixels.amin((0, 2, 3)), pixels.amax((0, 2, 3))  # (3,)
    return low[:, None, None] + torch.stack(images) * (high - low)[:, None, None]


def _mosaic(index: int, height: int, width: int, patch: int, generator: torch.Generator) -> Tensor:
    """A mosaic (3, H, W) in 0..1 of corners and middles of the colour cube, some white, every second one blurred."""
    side = patch * TILES[index % len(TILES)]
    rows, columns = -(-height // side), -(-width // side)
    colours = torch.randint(0, 3, (3, rows, columns), generator=generator) / 2
    white = torch.rand(1, rows, columns, generator=generator) < 0.25  # as the ground of cut-outs
    mode = "bilinear" if index % 2 else "nearest"
    tiles = torch.nn.functional.interpolate(
        torch.where(white, 1.0, colours)[None], size=(rows * side, columns * side), mode=mode
    )
    return tiles[0, :, :height, :width].clamp(0, 1)


def _flat(index: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """A flat image (3, H, W) in 0..1: one grey all over, with faint smooth noise."""
    grey = (0.5, 0.25, 0.75, 0.05, 0.95)[index % 5]
    noise = torch.randn(1, 1, height // 7, width // 7, generator=generator)
    noise = torch.nn.functional.interpolate(noise, size=(height, width), mode="bilinear")[0]
    return (grey + CONTRAST * noise).clamp(0, 1).expand(3, -1, -1)
