"""Cross-layer equalization of values and projection (Nagel et al. 2019): P V is linear in V, so V/s takes W * s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgekit.models.vit import Block


@torch.no_grad()
def balance_values(block: Block, scale: Tensor) -> None:
    """Divide the value rows of `qkv` by `scale` (D,) > 0 and multiply the projection's columns by it, in place."""
    width = block.attn.proj.in_features
    block.attn.qkv.weight[2 * width :].div_(scale[:, None])
    block.attn.qkv.bias[2 * width :].div_(scale)
    block.attn.proj.weight.mul_(scale)
