"""The generated test models are what they claim: the same function, wider, or with outliers inside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgekit.artifact import Preprocess
from edgekit.images import load_set
from edgekit.models.vit import ARCHITECTURES, VisionTransformer, random_model
from tests.support.models import TINY, TINY_REG, TINY_SWIGLU, duplicate_width, inject_outliers


def photographs(size: int, samples: int) -> Tensor:
    return torch.from_numpy(load_set("demo", Preprocess.for_size(size, size), samples=samples).pixel_values)


@torch.no_grad()
def peaks(model: VisionTransformer, x: Tensor) -> tuple[float, float]:
    """Largest magnitude at any LayerNorm output and at any input of the MLP's second layer."""
    norm, hidden = 0.0, 0.0
    tokens = model.embed(x)
    for block in model.blocks:
        attended = block.norm1(tokens)
        middle = tokens + block.ls1(block.attn(attended))
        fed = block.norm2(middle)
        norm = max(norm, attended.abs().max().item(), fed.abs().max().item())
        hidden = max(hidden, block.mlp.hidden(fed).abs().max().item())
        tokens = middle + block.ls2(block.mlp(fed))
    return norm, hidden


@pytest.mark.parametrize("config", [TINY, TINY_REG, TINY_SWIGLU], ids=lambda c: c.arch)
@torch.no_grad()
def test_the_wide_copy_of_a_tiny_model(config):
    model, x = random_model(config), photographs(112, 2)
    wide = duplicate_width(model)
    assert (wide.config.width, wide.config.heads, wide.config.head_dim) == (256, 4, 64)
    y = model(x)[0]
    assert (wide(x)[0] - torch.cat((y, y), dim=-1)).abs().max() < 1e-4
    qkv = wide.blocks[0].attn.qkv.weight
    assert not torch.allclose(qkv[:, :128], qkv[:, 128:], atol=1e-3)  # two halves that round differently


@torch.no_grad()
def test_the_demo_twice_as_wide_is_a_vit_b(demo_model, wide_demo_model):
    config = wide_demo_model.config
    assert config.arch == "dinov2_vitb14"
    assert (config.width, config.heads, config.ffn_hidden) == (768, 12, 3072)
    official = VisionTransformer(ARCHITECTURES["dinov2_vitb14"]).state_dict()
    assert {k: v.shape for k, v in wide_demo_model.state_dict().items()} == {k: v.shape for k, v in official.items()}
    x = photographs(224, 2)
    y = demo_model(x)[0]
    assert (wide_demo_model(x)[0] - torch.cat((y, y), dim=-1)).abs().max() < 1e-4


@pytest.mark.parametrize("config", [TINY, TINY_REG, TINY_SWIGLU], ids=lambda c: c.arch)
@torch.no_grad()
def test_outliers_in_a_tiny_model_change_nothing_but_the_inside(config):
    model, x = random_model(config), photographs(112, 2)
    stressed = inject_outliers(model)
    assert (stressed(x)[0] - model(x)[0]).abs().max() < 1e-4
    for before, after in zip(peaks(model, x), peaks(stressed, x), strict=True):
        assert after > 20 * before


@torch.no_grad()
def test_outliers_in_the_demo_model(demo_model, stress_model):
    x = photographs(224, 2)
    assert (stress_model(x)[0] - demo_model(x)[0]).abs().max() < 1e-4
    norm, hidden = peaks(stress_model, x)
    assert norm > 150
    assert hidden > 500
    assert hidden > 20 * peaks(demo_model, x)[1]
