"""Key mean removal ("smooth-K"): softmax ignores the constant q.c that a constant c per channel adds to a whole row.

Source: SageAttention, arXiv 2410.02367, with the mean taken at calibration instead of at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgekit.models.vit import Block


@torch.no_grad()
def centre_keys(block: Block, centre: Tensor) -> None:
    """Subtract `centre` (D,) from the key bias, in place. Any centre is exact; the mean over calibration is best."""
    width = block.attn.proj.in_features
    block.attn.qkv.bias[width : 2 * width].sub_(centre)
