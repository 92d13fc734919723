"""Scale the GELU output per hidden channel by an explicit multiplication, with the inverse folded into fc2.

GELU is not homogeneous, so this one rewrite is not free: it adds a Mul per block (fused ops do it in passing).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig
    from edgekit.models.vit import Mlp


def valid_for(config: ViTConfig) -> bool:
    """Whether the hidden channels are those of a GELU; a gated MLP multiplies them already."""
    return config.ffn == "mlp"


@torch.no_grad()
def scale_hidden(mlp: Mlp, scale: Tensor) -> None:
    """Set `fc2_gain` = 1 / scale (F,) and multiply fc2's columns by `scale`, in place; composes with an earlier one."""
    gain = 1 / scale if mlp.fc2_gain is None else mlp.fc2_gain / scale
    mlp.fc2_gain = nn.Parameter(gain)
    mlp.fc2.weight.mul_(scale)
