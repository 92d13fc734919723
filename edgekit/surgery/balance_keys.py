"""Cross-layer equalization of queries and keys (Nagel et al. 2019): q.k is the same for q * s and k / s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgekit.models.vit import Block


@torch.no_grad()
def balance_keys(block: Block, scale: Tensor) -> None:
    """Multiply the query rows of `qkv` by `scale` (D,) > 0 and divide its key rows by it, in place."""
    width = block.attn.proj.in_features
    rows = torch.cat((scale, 1 / scale))
    block.attn.qkv.weight[: 2 * width].mul_(rows[:, None])
    block.attn.qkv.bias[: 2 * width].mul_(rows)
