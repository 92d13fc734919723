"""Fold the 1/sqrt(d) of the attention logits into the query projection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer


@torch.no_grad()
def fold_attention_scale(model: VisionTransformer) -> int:
    """Multiply the query rows of `qkv` by the scale and set it to 1, in place; returns how many blocks changed."""
    folded = 0
    for block in model.blocks:
        if block.attn.scale != 1.0:
            width = block.attn.proj.in_features
            block.attn.qkv.weight[:width].mul_(block.attn.scale)
            block.attn.qkv.bias[:width].mul_(block.attn.scale)
            block.attn.scale = 1.0
            folded += 1
    return folded
