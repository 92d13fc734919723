"""Relatives of DINOv2 and DINOv3 by the layout of their files: EUPE, LingBot-Vision, LightlyTrain's vitt16, TIPSv2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgekit.errors import DataError, RecipeError
from edgekit.models import zoo
from edgekit.models.checkpoint import load_checkpoint, save_checkpoint
from edgekit.models.config import ViTConfig
from edgekit.models.vit import VisionTransformer, random_model
from tests.support.dinov3 import official_state, random_huggingface
from tests.support.models import TINY, TINY_ROPE

FAIR = "# FAIR Noncommercial Research License\n\nv1 Last Updated: August 18, 2025\n"
SIZES = [(64, 64), (96, 48)]
# D 192 in three heads, as EUPE's T and LightlyTrain's vitt16 (plus: a gated MLP of ratio 6)
TINY_T = replace(TINY_ROPE, arch="t", width=192, heads=3, rope_periods="bfloat16")


def relative(config: ViTConfig) -> VisionTransformer:
    """Random weights whose keys have no bias, as in all of these models."""
    model = random_model(config)
    for block in model.blocks:
        block.attn.qkv.bias.data.unflatten(0, (3, -1))[1] = 0
    return model


def dinov3_keys(model: VisionTransformer, *, masked: bool) -> dict[str, torch.Tensor]:
    """The keys of DINOv3's own code, which these models share; `masked` with its mask of the keys' bias."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["storage_tokens"] = state.pop("register_tokens")
    periods = model.config.rope_base ** (torch.arange(16) / 16)
    state["rope_embed.periods"] = periods.bfloat16()
    for block in range(model.config.depth):
        mlp, attention = f"blocks.{block}.mlp", f"blocks.{block}.attn.qkv"
        if model.config.ffn == "swiglu":
            for part in ("weight", "bias"):
                first, second = state.pop(f"{mlp}.w12.{part}").chunk(2)
                state |= {f"{mlp}.w1.{part}": first.clone(), f"{mlp}.w2.{part}": second.clone()}
        if masked:
            mask = torch.ones(3 * model.config.width)
            mask.unflatten(0, (3, -1))[1] = 0
            state[f"{attention}.bias_mask"] = mask
    return state


@torch.no_grad()
def apart(found: VisionTransformer, expected: VisionTransformer, size: tuple[int, int]) -> float:
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    ours, theirs = found.bake(*size)(pixels)[0], expected(pixels)[0]
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_eupe_and_lightly_train_load_as_dinov3(ffn: str, masked: bool, tmp_path: Path) -> None:
    config = replace(TINY_T, ffn=ffn, hidden=768 if ffn == "swiglu" else 0)
    model = relative(config)
    torch.save(dinov3_keys(model, masked=masked), tmp_path / "EUPE-ViT-T.pt")
    loaded = load_checkpoint(tmp_path / "EUPE-ViT-T.pt")
    assert loaded.rest == {}
    assert (loaded.config.heads, loaded.config.registers, loaded.config.norm_eps) == (3, 4, 1e-5)
    for size in SIZES:
        assert apart(loaded.model(), model, size) <= 1e-6


def test_eupe_brings_its_licence_or_is_refused(tmp_path: Path) -> None:
    torch.save(dinov3_keys(relative(TINY_T), masked=True), tmp_path / "EUPE-ViT-T.pt")
    with pytest.raises(DataError, match="without its licence"):
        zoo.load(tmp_path / "EUPE-ViT-T.pt")
    (tmp_path / "LICENSE.md").write_text(FAIR)
    loaded = zoo.load(tmp_path / "EUPE-ViT-T.pt")
    assert (loaded.licence, loaded.licence_text) == ("FAIR-Noncommercial", FAIR)


@pytest.mark.parametrize("wrapper", ["model", "backbone"])
def test_lingbot_vision_is_wrapped_and_free(wrapper: str, tmp_path: Path) -> None:
    model = relative(TINY_T)
    torch.save({wrapper: dinov3_keys(model, masked=True)}, tmp_path / "model.pt")
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    loaded = zoo.load(tmp_path)
    assert (loaded.licence, loaded.prefix) == ("Apache-2.0", f"{wrapper}.")
    for size in SIZES:
        assert apart(loaded.model, model, size) <= 1e-6


@pytest.mark.parametrize(("width", "heads"), [(128, 2), (1152, 16)], ids=["b14", "so400m14"])
def test_tipsv2_is_a_dinov2_of_one_register_and_plain_pixels(width: int, heads: int, tmp_path: Path) -> None:
    config = replace(TINY, width=width, heads=heads, hidden=64, registers=1, grid=(32, 32), interpolation="antialias")
    model = random_model(config)
    state = {f"vision_encoder.{key}": value for key, value in model.state_dict().items()}
    save_file(state | {"text_encoder.embedding.weight": torch.zeros(4, 4)}, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert (loaded.config.heads, loaded.config.grid, loaded.config.interpolation) == (heads, (32, 32), "antialias")
    transform = loaded.config.preprocess(448, 448)
    assert (transform.mean, transform.std) == ((0, 0, 0), (1, 1, 1))
    assert list(loaded.rest) == ["text_encoder.embedding.weight"]
    for size in [(56, 56), (84, 42)]:
        assert apart(loaded.model(), model, size) <= 1e-6


def test_the_periods_can_be_said(tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in official_state(random_huggingface("mlp")).items()}
    state["rope_embed.periods"] = state["rope_embed.periods"].bfloat16()
    save_file(state, tmp_path / "dinov3_vits16.safetensors")
    (tmp_path / "LICENSE.md").write_text("# DINOv3 License\n")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact, rounded, stored = (
            zoo.load(tmp_path / "dinov3_vits16.safetensors", rope_periods=which).model.bake(64, 64)(pixels)[0]
            for which in ("float32", "bfloat16", "auto")
        )
    assert torch.equal(rounded, stored)
    assert float((exact - rounded).abs().max()) > 1e-6
    save_checkpoint(random_model(TINY), tmp_path / "learned.safetensors")
    with pytest.raises(RecipeError, match="has learned positions"):
        zoo.load(tmp_path / "learned.safetensors", rope_periods="float32")
