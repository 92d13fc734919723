"""Finds the LayerNorms whose squared input could overflow float16 on a device, by one run of the float model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer

SAFE = 64.0  # of 255.9, whose square is float16's largest: a margin of 4 for images unlike the probe
SHRINK = 1 / 16  # exact in every number type; LayerNorm does not see it but for its epsilon


def large_norms(model: VisionTransformer) -> frozenset[str]:
    """Module paths of the norms whose input exceeds `SAFE` on a seeded noise image.

    The outlier channels and tokens of large DINOv2 models (Darcet et al. 2023, arXiv 2309.16588) are much the same
    whatever the image shows, so that one image tells.
    """
    import torch

    height, width = (side * model.config.patch for side in model.config.grid)
    pixels = np.random.default_rng(0).standard_normal((1, 3, height, width), np.float32)
    found: set[str] = set()

    def look(name: str, x: torch.Tensor) -> None:
        if float(x.abs().max()) > SAFE:
            found.add(name)

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: look(name, inputs[0]))  # type: ignore[misc]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
    ]
    try:
        with torch.no_grad():
            model(torch.from_numpy(pixels))
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(found)
