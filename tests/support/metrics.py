"""What tests compare outputs with: the float model in torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edgekit.models.vit import VisionTransformer


@torch.no_grad()
def expected(model: VisionTransformer, pixels: Tensor) -> np.ndarray:
    """`last_hidden_state` (B, N, D) of the float model."""
    tokens: np.ndarray = model(pixels)[0].numpy()
    return tokens
