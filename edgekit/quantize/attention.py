"""Level "all": integer scales for the two products of an attention, read off the float stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.quantize.plan import MatmulPlan

if TYPE_CHECKING:
    from edgekit.models.dinov2 import Attention


def plan_products(name: str, attention: Attention, outputs: Iterable[Tensor]) -> MatmulPlan:
    """Scales per head for q, k and v that cover all that was seen.

    Nothing is clipped: a key's largest entries decide whom its query attends to, so that clipping to the least squared
    error costs 15 dB at the model's output where it gains 2 in the keys.

    Args:
        name: of the attention: "blocks.0.attn".
        attention: gives the heads.
        outputs: of the packed projection on calibration images, batches (B, N, 3 * D).
    """
    peak = torch.zeros(3, attention.heads)
    for y in outputs:
        for part, t in enumerate(attention.split_heads(y)):  # (B, H, N, d)
            peak[part] = torch.maximum(peak[part], t.abs().amax((0, 2, 3)))
    query, key, value = (row.contiguous().numpy() for row in peak.clamp(min=1e-12) / 127)
    return MatmulPlan(name, query, key, value)
