"""The reference model against transformers, against its own baked copy, and against the official parameter counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgekit.errors import RecipeError
from edgekit.models.checkpoint import load_checkpoint
from edgekit.models.vit import ARCHITECTURES, VisionTransformer, ViTConfig, random_model
from tests.support.dinov2 import transformers_model
from tests.support.models import TINY, TINY_REG, TINY_SWIGLU

TINY_SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
VITS_SHAPE = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}


def pixels(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def converted(model: nn.Module, folder) -> VisionTransformer:
    model.save_pretrained(folder)
    return load_checkpoint(folder).model()


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(
    ("shape", "swiglu"), [(TINY_SHAPE, False), (TINY_SHAPE, True), (VITS_SHAPE, False)], ids=["tiny", "swiglu", "vits"]
)
@torch.no_grad()
def test_equals_transformers_at_two_sizes(shape, swiglu, registers, tmp_path):
    theirs = transformers_model(shape, registers, swiglu)
    ours = converted(theirs, tmp_path)
    assert ours.config.interpolation == ("antialias" if registers else "size")
    for height, width in ((224, 224), (140, 280)):
        x = pixels(height, width)
        expected = theirs(x)
        hidden, pooled = ours(x)
        assert hidden.shape == (2, ours.config.tokens(height, width), shape["hidden_size"])
        assert (hidden - expected.last_hidden_state).abs().max() < 1e-4
        assert (pooled - expected.pooler_output).abs().max() < 1e-4


@torch.no_grad()
def test_the_official_interpolation_of_plain_models_is_another_one(tmp_path):
    """Guards the choice of variant: taking the wrong one is a silent error of the size seen here."""
    size = converted(transformers_model(TINY_SHAPE, 0), tmp_path)
    offset = VisionTransformer(replace(size.config, interpolation="offset"))
    offset.load_state_dict(size.state_dict())
    difference = (size.position_embedding(224, 224) - offset.position_embedding(224, 224)).abs().max()
    assert difference > 1e-3
    native = 37 * 14
    assert torch.equal(size.position_embedding(native, native), offset.position_embedding(native, native))


@pytest.mark.parametrize("config", [TINY, TINY_REG, TINY_SWIGLU], ids=lambda c: c.arch)
@pytest.mark.parametrize("size", [(70, 70), (56, 112), (224, 224)], ids=str)
@torch.no_grad()
def test_baking_changes_nothing_but_the_stored_grid(config, size):
    model = random_model(config)
    baked = model.bake(*size)
    x = pixels(*size)
    assert baked.config.grid == (size[0] // 14, size[1] // 14)
    assert baked.pos_embed.shape[1] == 1 + baked.config.grid[0] * baked.config.grid[1]
    assert torch.equal(baked(x)[0], model(x)[0])
    assert model.config == config


@pytest.mark.parametrize("size", [(225, 224), (224, 0), (224, -14), (7, 7)], ids=str)
def test_a_size_that_is_no_multiple_of_14_is_refused_with_the_nearest(size, tiny_model):
    with pytest.raises(RecipeError) as caught:
        tiny_model.bake(*size)
    assert f"{size[0]}x{size[1]}" in caught.value.what
    assert caught.value.fix.removeprefix("--image-size ") in ("224", "224x14", "14")


@torch.no_grad()
def test_features_have_the_official_names_and_agree_with_the_export_contract(tiny_reg_model):
    x = pixels(70, 70)
    features = tiny_reg_model.forward_features(x)
    hidden, pooled = tiny_reg_model(x)
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "x_norm_clstoken": (2, 128),
        "x_norm_regtokens": (2, 4, 128),
        "x_norm_patchtokens": (2, 25, 128),
        "x_prenorm": (2, 30, 128),
    }
    joined = torch.cat((features["x_norm_clstoken"][:, None], features["x_norm_regtokens"]), dim=1)
    assert torch.equal(torch.cat((joined, features["x_norm_patchtokens"]), dim=1), hidden)
    assert torch.equal(pooled, hidden[:, 0])
    assert torch.allclose(tiny_reg_model.norm(features["x_prenorm"]), hidden)


@torch.no_grad()
def test_images_of_a_batch_do_not_see_each_other(tiny_model):
    x = pixels(70, 70, batch=3)
    alone = torch.cat([tiny_model(image[None])[0] for image in x])
    assert (tiny_model(x)[0] - alone).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("arch", "parameters"),
    [
        ("dinov2_vits14", 22_056_576),
        ("dinov2_vitb14", 86_580_480),
        ("dinov2_vitl14", 304_368_640),
        ("dinov2_vitg14", 1_136_480_768),
    ],
)
def test_parameter_counts_are_the_official_ones(arch, parameters):
    with torch.device("meta"):
        plain = sum(p.numel() for p in VisionTransformer(ARCHITECTURES[arch]).parameters())
        registers = sum(p.numel() for p in VisionTransformer(ARCHITECTURES[arch + "_reg"]).parameters())
    assert plain == ARCHITECTURES[arch].parameters == parameters
    assert registers == ARCHITECTURES[arch + "_reg"].parameters == parameters + 4 * ARCHITECTURES[arch].width


def test_every_official_architecture_is_there_with_its_variant():
    assert len(ARCHITECTURES) == 8 + 6
    for name, config in ARCHITECTURES.items():
        assert config.arch == name
        assert config.head_dim == 64
        if config.positions == "learned":
            assert (config.registers, config.interpolation) == ((4, "antialias") if "_reg" in name else (0, "offset"))
    assert ARCHITECTURES["dinov2_vitg14"].ffn_hidden == 4096
    assert ARCHITECTURES["dinov2_vits14"].tokens(224, 224) == 257
    assert ARCHITECTURES["dinov2_vits14_reg"].tokens(518, 518) == 1374


def test_random_models_are_the_same_for_the_same_seed_only():
    config = ViTConfig("seeded", width=64, depth=1, heads=1, grid=(2, 2))
    first, again, other = (random_model(config, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)
