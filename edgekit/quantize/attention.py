"""Level "all": integer scales for the two products of an attention, chosen on the float stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.quantize.plan import MatmulPlan

if TYPE_CHECKING:
    from edgekit.models.dinov2 import Attention

CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # shares of a head's largest magnitude that int8 may cover


def plan_products(name: str, attention: Attention, outputs: Iterable[Tensor]) -> MatmulPlan:
    """Scales per head for q, k and v, each with the least squared rounding error.

    Args:
        name: of the attention: "blocks.0.attn".
        attention: gives the heads.
        outputs: of the packed projection on calibration images, batches (B, N, 3 * D); iterated twice.
    """
    heads = attention.heads
    peak = torch.zeros(3, heads)
    for y in outputs:
        for part, t in enumerate(attention.split_heads(y)):  # (B, H, N, d)
            peak[part] = torch.maximum(peak[part], t.abs().amax((0, 2, 3)))
    scales = peak.clamp(min=1e-12)[:, :, None] * torch.tensor(CLIPS) / 127  # (3, H, clips)
    errors = torch.zeros_like(scales, dtype=torch.float64)
    for y in outputs:
        for part, t in enumerate(attention.split_heads(y)):
            for i in range(len(CLIPS)):
                step = scales[part, :, i, None, None]
                errors[part, :, i] += ((t / step).round().clamp(-127, 127) * step - t).square().sum((0, 2, 3))
    best = scales.gather(2, errors.argmin(2, keepdim=True))[..., 0]  # (3, H)
    query, key, value = (row.contiguous().numpy() for row in best)
    return MatmulPlan(name, query, key, value)
