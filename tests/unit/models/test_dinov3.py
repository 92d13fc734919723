"""DINOv3: every key layout gives the function of transformers' own model, at two sizes, one not square."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgekit.errors import DataError, RecipeError
from edgekit.models.checkpoint import load_checkpoint, save_checkpoint
from edgekit.models.config import ARCHITECTURES
from edgekit.models.rope import periods_of, rotation_of
from edgekit.models.vit import VisionTransformer, random_model
from tests.support.dinov3 import KINDS, official_state, random_huggingface, timm_state
from tests.support.models import TINY_ROPE

SIZES = [(64, 64), (96, 48)]


def apart(model: VisionTransformer, theirs: torch.nn.Module, size: tuple[int, int]) -> float:
    """Largest difference of all tokens, as share of the largest of them."""
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = theirs(pixels).last_hidden_state, model.bake(*size)(pixels)[0]
        unbaked = model(pixels)[0]
    torch.testing.assert_close(found, unbaked, atol=0, rtol=0)
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_a_folder_of_hugging_face_computes_what_transformers_computes(
    kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    theirs = random_huggingface(kind)
    theirs.save_pretrained(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.layout == "huggingface dinov3"
    assert loaded.rest == {}
    assert apart(loaded.model(), theirs, size) <= 1e-4


@pytest.mark.parametrize("layout", ["official", "timm"])
@pytest.mark.parametrize("kind", KINDS)
def test_official_and_timm_keys_are_the_same_model(kind: str, layout: str, tmp_path: Path) -> None:
    theirs = random_huggingface(kind)
    state = official_state(theirs) if layout == "official" else timm_state(theirs)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.layout == layout
    assert loaded.rest == {}
    for size in SIZES:
        assert apart(loaded.model(), theirs, size) <= 1e-4


def test_periods_are_those_of_the_file(tmp_path: Path) -> None:
    theirs = random_huggingface("mlp")
    state = {key: value.contiguous() for key, value in official_state(theirs).items()}
    rounded = state | {"rope_embed.periods": state["rope_embed.periods"].bfloat16()}
    found = []
    for name, each in (("float32", state), ("bfloat16", rounded)):
        save_file(each, tmp_path / f"{name}.safetensors")
        loaded = load_checkpoint(tmp_path / f"{name}.safetensors")
        assert loaded.config.rope_periods == name
        found.append(loaded.model())
    expected = 100 ** (2 * torch.arange(16, dtype=torch.float32) / 32)
    np.testing.assert_allclose(periods_of(100, 64, "float32"), expected, rtol=1e-6)
    np.testing.assert_array_equal(periods_of(100, 64, "bfloat16"), expected.bfloat16().double())
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert float((found[0](pixels)[0] - found[1](pixels)[0]).abs().max()) > 1e-6
    save_file(state | {"rope_embed.periods": state["rope_embed.periods"] * 2}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"rope_embed\.periods are"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_a_masked_key_bias_is_no_bias(tmp_path: Path) -> None:
    state = official_state(random_huggingface("mlp"))
    width = state["cls_token"].shape[-1]
    state["blocks.0.attn.qkv.bias"][width : 2 * width] = torch.nan  # what is masked may be anything
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    bias = load_checkpoint(tmp_path / "model.safetensors").tensors["blocks.0.attn.qkv.bias"]
    assert (bias[width : 2 * width] == 0).all()
    assert (bias[:width] != 0).any()


def test_the_prefix_is_not_turned_and_rotations_keep_lengths() -> None:
    cos, sin = rotation_of(replace(TINY_ROPE, grid=(3, 5)))
    assert cos.shape == sin.shape == (5 + 15, 64)
    assert (cos[:5] == 1).all()
    assert (sin[:5] == 0).all()
    np.testing.assert_allclose(cos**2 + sin**2, 1, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("dinov3")])
def test_every_size_has_the_published_shapes(name: str) -> None:
    config = ARCHITECTURES[name]
    with torch.device("meta"):
        shapes = VisionTransformer(config).state_dict()
    assert sum(value.numel() for value in shapes.values()) == config.parameters
    assert (config.patch, config.head_dim, config.registers, config.norm_eps) == (16, 64, 4, 1e-5)
    assert config.tokens(224, 224) == 201
    published = {"vits16": 21, "vits16plus": 29, "vitb16": 86, "vitl16": 300, "vith16plus": 840}
    if million := published.get(name.removeprefix("dinov3_")):
        assert abs(config.parameters / 1e6 - million) < 0.05 * million


def test_own_files_load_back(tmp_path: Path) -> None:
    model = random_model(replace(TINY_ROPE, rope_periods="bfloat16", normalization="satellite"))
    save_checkpoint(model, tmp_path / "m.safetensors", licence="MIT")
    loaded = load_checkpoint(tmp_path / "m.safetensors")
    assert loaded.config == model.config
    assert all(torch.equal(loaded.tensors[key], value) for key, value in model.state_dict().items())


def test_satellite_weights_bring_their_own_pixels(tmp_path: Path) -> None:
    state: dict[str, Tensor] = {key: v.contiguous() for key, v in official_state(random_huggingface("mlp")).items()}
    save_file(state, tmp_path / "dinov3_vitl16_pretrain_sat493m-eadcf0ff.safetensors")
    norms = {f"local_cls_norm.{part}": torch.ones(128) for part in ("weight", "bias")}
    save_file(state | norms, tmp_path / "renamed.safetensors")
    for file in tmp_path.iterdir():
        assert load_checkpoint(file).config.preprocess(64, 64).mean == (0.430, 0.411, 0.296)


def test_sizes_are_multiples_of_the_models_own_patch() -> None:
    model = random_model(TINY_ROPE)
    with pytest.raises(RecipeError, match="multiple of 16") as caught:
        model.bake(224, 238)
    assert caught.value.fix == "--image-size 224x240"
