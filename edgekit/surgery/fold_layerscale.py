"""Fold LayerScale into the projection before it: (x W^T + b) * g = x (g W)^T + g b."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from edgekit.models.vit import Mlp

if TYPE_CHECKING:
    from edgekit.models.vit import Block, VisionTransformer


def last_linear(block: Block) -> nn.Linear:
    """The linear that ends the block's feed-forward branch: fc2, or w3 of a SwiGLU."""
    return block.mlp.fc2 if isinstance(block.mlp, Mlp) else block.mlp.w3


def first_linear(block: Block) -> nn.Linear:
    """The linear that starts it: fc1, or w12 of a SwiGLU."""
    return block.mlp.fc1 if isinstance(block.mlp, Mlp) else block.mlp.w12


@torch.no_grad()
def fold_layerscale(model: VisionTransformer) -> int:
    """Absorb every `ls1` and `ls2` in place; returns how many were folded."""
    folded = 0
    for block in model.blocks:
        for name, linear in (("ls1", block.attn.proj), ("ls2", last_linear(block))):
            gamma = getattr(getattr(block, name), "gamma", None)
            if gamma is not None:
                linear.weight.mul_(gamma[:, None])
                linear.bias.mul_(gamma)
                setattr(block, name, nn.Identity())
                folded += 1
    return folded
