"""Centre values and give the centre back in the projection bias: rows of softmax sum to one, so P(V - c) = PV - c."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgekit.models.vit import Block


@torch.no_grad()
def centre_values(block: Block, centre: Tensor) -> None:
    """Subtract `centre` (D,) from the value bias and add `W_proj centre` to the projection bias, in place.

    The projection's input moves by -centre too: this is Outlier Suppression+'s shift for that GEMM, for free.
    """
    width = block.attn.proj.in_features
    block.attn.qkv.bias[2 * width :].sub_(centre)
    block.attn.proj.bias.add_(block.attn.proj.weight @ centre)
