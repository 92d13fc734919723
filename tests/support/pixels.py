"""Pixels for tests: normal noise, which is quick, and smooth pictures, which are nearer to photographs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgekit.models.vit import VisionTransformer

OBLONG = (70, 56)  # (height, width) of a small image that is not square


def noise(size: tuple[int, int], batch: int = 2, seed: int = 0) -> Tensor:
    """Normal noise (batch, 3, H, W)."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def size_of(model: VisionTransformer) -> tuple[int, int]:
    """The image size (height, width) that a model is made for."""
    rows, columns = model.config.grid
    return rows * model.config.patch, columns * model.config.patch


def pictures(model: VisionTransformer, batch: int = 16, seed: int = 0) -> np.ndarray:
    """Smooth random pictures (batch, 3, H, W) for a model, each with a mean colour of its own."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 3, 4, 4, generator=generator) + torch.randn(batch, 3, 1, 1, generator=generator)
    smooth: np.ndarray = torch.nn.functional.interpolate(coarse, size=size_of(model), mode="bicubic").numpy()
    return smooth
