"""Fold ImageNet normalisation into the patch embedding, so that the graph takes RGB 0..255."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer


@torch.no_grad()
def fold_normalization(
    model: VisionTransformer, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    """w' = w / (255 std), b' = b - sum(w mean / std), in place; exact because the convolution is not padded."""
    conv = model.patch_embed.proj
    mean_, std_ = torch.tensor(mean)[None, :, None, None], torch.tensor(std)[None, :, None, None]
    weight = conv.weight.double() / std_
    assert conv.bias is not None  # the patch embedding of every DINOv2 has one
    conv.bias.copy_(conv.bias - (weight * mean_).sum(dim=(1, 2, 3)))
    conv.weight.copy_(weight / 255)
