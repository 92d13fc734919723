"""Recentre keys behind their rotation: softmax ignores what q.c adds to a whole row, whatever turned q and k before.

A mean that is taken off before the rotation would be turned by each position and no longer be one constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig
    from edgekit.models.vit import Block


def valid_for(config: ViTConfig) -> bool:
    """Whether keys are turned; `centre_keys` costs nothing where they are not."""
    return config.positions == "rope"


@torch.no_grad()
def centre_turned_keys(block: Block, centre: Tensor) -> None:
    """Subtract `centre` (D,) from the turned keys of all tokens, in place; composes with an earlier one.

    Raises:
        ValueError: the block turns no keys.
    """
    if block.attn.rotation is None:
        raise ValueError("the keys are not turned: take the centre off their bias with centre_keys")
    earlier = block.attn.key_centre
    block.attn.key_centre = nn.Parameter(centre.clone() if earlier is None else earlier + centre)
