"""Shift and scale a LayerNorm's output per channel, with the inverse folded into the linears that read it.

Sources: SmoothQuant (arXiv 2211.10438) for the scale, Outlier Suppression+ (arXiv 2304.09145) for the shift. Both fold
into gamma and beta, so the rewritten model costs nothing at run time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def smooth_norm(norm: nn.LayerNorm, linear: nn.Linear, shift: Tensor, scale: Tensor) -> None:
    """y' = (y - shift) / scale in the norm; W' = W * scale and b' = b + W shift in the linear, in place.

    Args:
        norm: the LayerNorm whose output feeds only `linear` (norm1 -> qkv, norm2 -> fc1 or w12).
        linear: its reader.
        shift: (D,) any values.
        scale: (D,) positive.
    """
    linear.bias.add_(linear.weight @ shift)
    linear.weight.mul_(scale)
    norm.bias.sub_(shift).div_(scale)
    norm.weight.div_(scale)
