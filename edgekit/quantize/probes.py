"""Synthetic images that show the first blocks colours and edges which no calibration photograph happens to hold.

What one saturated colour, an image of nothing else, or a hard pattern does to the first blocks is several times what
natural photographs do to them, and a static range that never saw it clips. Probes widen ranges; weights are fitted to
photographs alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILES = (1.0, 64.0, 4.0, 8.0, 0.5, 1 / 7)  # patches per side of a tile of one colour, in turn: 64 is the whole image


def colour_probes(pixels: Tensor, count: int, patch: int, seed: int = 0) -> Tensor:
    """Mosaics of the corners and middles of the colour cube, every second one blurred.

    Args:
        pixels: (n, 3, H, W) calibration images; each channel's extremes are the cube's corners.
        count: how many mosaics.
        patch: pixels per patch side.
        seed: of the colours.

    Returns:
        (count, 3, H, W).
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = pixels.amin((0, 2, 3)), pixels.amax((0, 2, 3))  # (3,)
    height, width = pixels.shape[2:]
    images = []
    for index in range(count):
        side = round(patch * TILES[index % len(TILES)])
        rows, columns = -(-height // side), -(-width // side)
        steps = torch.randint(0, 3, (1, 3, rows, columns), generator=generator) / 2  # 0, 1/2 or 1 of each channel
        plain = torch.rand(1, 1, rows, columns, generator=generator) < 0.25  # white, as the ground of cut-outs
        steps = torch.where(plain, 1.0, steps)
        colours = low[:, None, None] + steps * (high - low)[:, None, None]
        mode = "bilinear" if index // len(TILES) % 2 else "nearest"
        mosaic = torch.nn.functional.interpolate(colours, size=(rows * side, columns * side), mode=mode)
        images.append(mosaic[:, :, :height, :width])
    return torch.cat(images)
