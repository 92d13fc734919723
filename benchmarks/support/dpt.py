"""A DPT depth head that has learned something: brightness for depth, since a trained one has to be downloaded.

Random weights would not do: their output hardly changes from place to place, and all rounding looks large beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import Tensor

from edgekit.artifact import Preprocess
from edgekit.heads.depth import depth_layers
from edgekit.images import load_set
from edgekit.models.vit import VisionTransformer
from tests.support import official_heads as official

SIDE, IMAGES, BATCH, STEPS, RATE = 112, 64, 4, 160, 3e-4
CHANNELS = 256
NEAREST, FARTHEST = 1.0, 9.0  # metres: black and white
_LUMA = torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]


def bright_dpt(model: VisionTransformer, kept: Path | None = None) -> dict[str, np.ndarray]:
    """The state of a DPT head for a model (not baked yet); four minutes on two cores, or read from `kept`.

    It is fitted to the demo's calibration photographs at 112 px, and works at any size.
    """
    if kept is not None and kept.exists():
        return load_file(kept)
    transform = Preprocess.for_size(SIDE, SIDE)
    pixels = torch.from_numpy(load_set("demo", transform, samples=IMAGES, seed=0, split="calibration").pixel_values)
    backbone = model.bake(SIDE, SIDE)
    config = backbone.config
    torch.manual_seed(0)
    head = official.Dpt(
        config.width, [*depth_layers(config.depth, 4)], CHANNELS, [config.width >> shift for shift in (3, 2, 1, 0)]
    )
    with torch.no_grad():
        head.conv_depth.head[4].bias.fill_((NEAREST + FARTHEST) / 2)  # where ReLU lets gradients pass
    optimizer = torch.optim.AdamW(head.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    wanted, rng = _brightness(pixels, transform), torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(len(pixels), (BATCH,), generator=rng)
        loss = F.smooth_l1_loss(head.run(backbone, pixels[chosen]), wanted[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    state = {name: value.numpy() for name, value in head.state_dict().items()}
    if kept is not None:
        save_file(state, kept)
    return state


def _brightness(pixels: Tensor, transform: Preprocess) -> Tensor:
    """(B, 3, H, W) as the model takes them -> metres (B, h, w) as the head gives them."""
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (transform.mean, transform.std))
    luma = ((pixels * std + mean) * _LUMA).sum(1, keepdim=True)
    blurred = F.avg_pool2d(luma, 7, 1, 3, count_include_pad=False)
    side = 32 * (SIDE // 14 // 2)
    scaled = F.interpolate(blurred, (side, side), mode="bilinear", align_corners=True)[:, 0]
    return NEAREST + (FARTHEST - NEAREST) * scaled.clamp(0, 1)
