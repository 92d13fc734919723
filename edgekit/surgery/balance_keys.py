"""Cross-layer equalization of queries and keys (Nagel et al. 2019): q.k is the same for q * s and k / s."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgekit.models.vit import Block


@torch.no_grad()
def balance_keys(block: Block, scale: Tensor) -> None:
    """Multiply the query rows of `qkv` by `scale` (D,) > 0 and divide its key rows by it, in place.

    Raises:
        ValueError: the block turns pairs of channels together, and `scale` is not alike in both; see `alike_in_pairs`.
    """
    if block.attn.rotation is not None and not torch.equal(scale, alike_in_pairs(scale, block.attn.heads)):
        raise ValueError("channels that turn together need one scale: a rotation commutes with no other")
    width = block.attn.proj.in_features
    rows = torch.cat((scale, 1 / scale))
    block.attn.qkv.weight[: 2 * width].mul_(rows[:, None])
    block.attn.qkv.bias[: 2 * width].mul_(rows)
    if block.attn.key_centre is not None:
        block.attn.key_centre.div_(scale)


def alike_in_pairs(values: Tensor, heads: int) -> Tensor:
    """Values (D,) with the larger of those of the channels (i, i + d/2) of a head, which turn together, in both."""
    apart = values.reshape(heads, 2, -1)
    return apart.amax(1, keepdim=True).expand_as(apart).flatten()
