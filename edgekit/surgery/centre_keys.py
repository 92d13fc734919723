"""Key mean removal ("smooth-K"): softmax ignores the constant q.c that a constant c per channel adds to a whole row.

Source: SageAttention, arXiv 2410.02367, with the mean taken at calibration instead of at run time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig
    from edgekit.models.vit import Block


def valid_for(config: ViTConfig) -> bool:
    """Whether keys stay as their projection makes them; `centre_turned_keys` is for those that are turned."""
    return config.positions == "learned"


@torch.no_grad()
def centre_keys(block: Block, centre: Tensor) -> None:
    """Subtract `centre` (D,) from the key bias, in place. Any centre is exact; the mean over calibration is best.

    Raises:
        ValueError: the block turns its keys by their positions.
    """
    if block.attn.rotation is not None:
        raise ValueError("a constant in front of the rotation is none behind it: use centre_turned_keys")
    width = block.attn.proj.in_features
    block.attn.qkv.bias[width : 2 * width].sub_(centre)
