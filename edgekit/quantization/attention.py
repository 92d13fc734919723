"""Level "all": integer scales for the two products of an attention, read off the float stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.plan.quant import MatmulPlan
from edgekit.surgery.balance_keys import alike_in_pairs, balance_keys

if TYPE_CHECKING:
    from edgekit.models.vit import Block

_LEAST = 1e-6  # of a channel's peak, as share of the largest and absolutely: a dead channel stays within reach


def plan_products(name: str, block: Block, outputs: Iterable[Tensor]) -> MatmulPlan:
    """Balance queries and keys in place, then take the scales per head for q, k and v that cover all that was seen.

    A head has one scale for all its channels, so the channels are made alike first: scale moves from each query channel
    to its key channel until both have the same peak. The function stays equal, and since weights have a scale per row,
    so does their rounding.

    Nothing is clipped: a key's largest entries decide whom its query attends to, so that clipping to the least squared
    error costs 15 dB at the model's output where it gains 2 in the keys.

    Args:
        name: of the attention: "blocks.0.attn".
        block: whose attention it is.
        outputs: of the packed projection on calibration images, batches (B, N, 3 * D), before the balancing.
    """
    width = block.attn.proj.in_features
    peak = torch.zeros(3 * width)
    turned = block.attn.rotation is not None
    for y in outputs:
        # what is multiplied are the turned queries and keys
        parts = [x.transpose(1, 2).flatten(2) for x in block.attn.split_heads(y)] if turned else [y]
        peak = torch.maximum(peak, torch.cat(parts, dim=-1).abs().amax((0, 1)))
    query, key, value = (part.clamp(min=_LEAST * float(part.max()) + _LEAST) for part in peak.chunk(3))
    if turned:
        query, key = (alike_in_pairs(part, block.attn.heads) for part in (query, key))
    scale = (key / query).sqrt()
    balance_keys(block, scale)
    scales = (
        (part.unflatten(0, (block.attn.heads, -1)).amax(1) / 127).contiguous().numpy()
        for part in (query * scale, key / scale, value)
    )
    return MatmulPlan(name, *scales)
