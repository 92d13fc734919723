"""Exact float rewrites: each takes a baked model and returns an equal function that quantizes better.

A rewrite that is exact for some architectures only says for which: `valid_for(config)` of its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer, ViTConfig


def state_of(model: VisionTransformer) -> dict[str, np.ndarray]:
    """Float32 arrays that `restore` rebuilds `model` from: its state dict, and each block's attention scale."""
    tensors = {key: value.detach().float().cpu().numpy() for key, value in model.state_dict().items()}
    tensors |= {
        f"blocks.{i}.attn.scale": np.array([block.attn.scale], np.float32) for i, block in enumerate(model.blocks)
    }
    return tensors


def restore(config: ViTConfig, tensors: dict[str, np.ndarray]) -> VisionTransformer:
    """Rebuild a rewritten model: absent LayerScale is folded, present `fc2_gain`, `key_centre`, `unrotate` are set."""
    import torch
    from torch import nn

    from edgekit.models.vit import VisionTransformer

    model = VisionTransformer(config)
    for i, block in enumerate(model.blocks):
        block.attn.scale = float(tensors[f"blocks.{i}.attn.scale"][0])
        for scale in ("ls1", "ls2"):
            if f"blocks.{i}.{scale}.gamma" not in tensors:
                setattr(block, scale, nn.Identity())
        if f"blocks.{i}.attn.key_centre" in tensors:
            block.attn.key_centre = nn.Parameter(torch.empty(config.width))
        if f"blocks.{i}.mlp.fc2_gain" in tensors:
            block.mlp.fc2_gain = nn.Parameter(torch.empty(config.ffn_hidden))
    if "unrotate" in tensors:
        model.unrotate = nn.Parameter(torch.empty(config.width, config.width))
    state = {key: torch.from_numpy(np.array(value)) for key, value in tensors.items() if not key.endswith("attn.scale")}
    model.load_state_dict(state, strict=True)
    return model.eval()
