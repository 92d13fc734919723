"""The program of the backbone computes what the reference model does: proved over torch, without any file format."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.graph.backbone import emit_backbone
from edgekit.graph.torch_emitter import TorchEmitter, tokens_of
from edgekit.models.vit import VisionTransformer, ViTConfig, random_model
from edgekit.surgery import state_of
from edgekit.surgery.fold_attention_scale import fold_attention_scale
from edgekit.surgery.fold_layerscale import fold_layerscale
from edgekit.surgery.rotate import mean_preserving_rotation, rotate
from edgekit.surgery.scale_hidden import scale_hidden
from tests.support import models

SIZE = (70, 56)
ROPE_SIZE = (80, 48)


def unchanged(model: VisionTransformer) -> None:
    pass


def folded(model: VisionTransformer) -> None:
    fold_layerscale(model)
    fold_attention_scale(model)


def rotated(model: VisionTransformer) -> None:
    folded(model)
    rotate(model, mean_preserving_rotation(model.config.width))


def hidden_scaled(model: VisionTransformer) -> None:
    for block in model.blocks:
        scale_hidden(block.mlp, torch.linspace(0.5, 2, model.config.ffn_hidden))


@torch.no_grad()
def largest_difference(model: VisionTransformer, config: ViTConfig | None = None) -> float:
    """Of all that `emit_backbone` returns, against the modules of `model` run one after the other."""
    size = [side * model.config.patch for side in model.config.grid]
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    hidden, blocks = tokens_of(model, pixels)
    found = emit_backbone(TorchEmitter(config or model.config, state_of(model)), pixels)
    pairs = zip([*found.blocks, found.hidden, found.pooled], [*blocks, hidden, hidden[:, 0]], strict=True)
    return max(float((actual - expected).abs().max()) for actual, expected in pairs)


CASES = [
    (config, rewrite)
    for config in (models.TINY, models.TINY_REG, models.TINY_SWIGLU, models.TINY_ROPE, models.TINY_ROPE_SWIGLU)
    for rewrite in (unchanged, folded, rotated, hidden_scaled)
    if config.ffn == "mlp" or rewrite is not hidden_scaled
]


@pytest.mark.parametrize(("config", "rewrite"), CASES, ids=[f"{c.arch}-{r.__name__}" for c, r in CASES])
def test_the_program_is_the_model(config: ViTConfig, rewrite: Callable[[VisionTransformer], None]) -> None:
    model = random_model(config).bake(*(SIZE if config.positions == "learned" else ROPE_SIZE))
    rewrite(model)
    assert largest_difference(model) < 1e-5


def test_every_tensor_of_the_model_counts() -> None:
    """A change of any one is seen in the output, but for the mask token, which only training uses."""
    model = random_model(models.TINY_REG).bake(*SIZE)
    hidden_scaled(model)
    e = TorchEmitter(model.config, state_of(model))
    pixels = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    expected = emit_backbone(e, pixels).hidden
    for key, value in state_of(model).items():
        noise = np.random.default_rng(0).standard_normal(value.shape).astype(np.float32)
        other = emit_backbone(TorchEmitter(model.config, {**e.tensors, key: value + noise}), pixels).hidden
        assert torch.equal(other, expected) == (key == "mask_token"), key


def test_the_norms_have_the_epsilon_of_the_config() -> None:
    model = random_model(models.TINY).bake(*SIZE)
    other = deepcopy(model)
    for module in other.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 0.1
    config = replace(model.config, norm_eps=0.1)
    assert largest_difference(other, config) < 1e-5 < largest_difference(model, config)
