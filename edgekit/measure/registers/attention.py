"""Internals of the torch model: attention of the last class token, and patch norms before the final norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgekit.measure.features import Features
from edgekit.models.vit import VisionTransformer
from edgekit.progress import Progress


@dataclass(frozen=True)
class Inside:
    """Internals of n images on P patches: `features` as every runner gives them, and the tensors before them.

    `attention` (n, heads, P) is the softmax of the last block's class token over all tokens, its patches only.
    `norms` (n, P) are the L2 norms of the patch tokens of the residual stream before the final norm, where outliers
    show (Darcet et al. 2023, arXiv 2309.16588, section 2). `keys` (n, P, D) are those of the last block, all heads.
    """

    features: Features
    attention: np.ndarray
    norms: np.ndarray
    keys: np.ndarray


@torch.no_grad()
def look_inside(
    model: VisionTransformer, pixel_values: np.ndarray, names: Sequence[str], *, progress: Progress | None = None
) -> Inside:
    """Run images (n, 3, H, W), normalised, one by one through a model; `progress` is told (done, total)."""
    first = 1 + model.config.registers
    tokens, attention, norms, keys = [], [], [], []
    last = model.blocks[-1]
    for i, pixels in enumerate(pixel_values):
        x = model.embed(torch.from_numpy(pixels)[None])  # (1, N, D)
        for block in model.blocks[:-1]:
            x = block(x)
        q, k, _ = last.attn.split_heads(last.attn.qkv(last.norm1(x)))  # (1, heads, N, D / heads)
        weights = torch.softmax(q[:, :, :1] @ k.transpose(-2, -1) * last.attn.scale, dim=-1)  # (1, heads, 1, N)
        x = last(x)
        tokens.append(model.finish(x)[0].numpy())
        attention.append(weights[0, :, 0, first:].numpy())
        norms.append(x[0, first:].norm(dim=-1).numpy())
        keys.append(k[0, :, first:].transpose(0, 1).flatten(1).numpy())
        if progress:
            progress(i + 1, len(pixel_values))
    height, width = pixel_values.shape[-2:]
    grid = (height // model.config.patch, width // model.config.patch)
    features = Features(np.stack(tokens), grid, tuple(names))
    return Inside(features, np.stack(attention), np.stack(norms), np.stack(keys))
