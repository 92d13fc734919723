"""A model of DINOv3's architecture, written as a folder of Hugging Face and read again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.support.dinov3_folder import write_folder
from edgekit.errors import ExportError
from edgekit.models import zoo
from edgekit.models.config import ViTConfig
from edgekit.models.vit import VisionTransformer, random_model
from tests.support.models import TINY, TINY_ROPE, TINY_ROPE_SWIGLU


def without_key_bias(config: ViTConfig) -> VisionTransformer:
    model = random_model(config)
    for block in model.blocks:
        block.attn.qkv.bias.data.unflatten(0, (3, -1))[1] = 0
    return model


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY_ROPE, TINY_ROPE_SWIGLU], ids=lambda config: config.arch)
def test_a_folder_is_the_model_for_transformers_and_for_edgekit(config: ViTConfig, tmp_path: Path) -> None:
    model = without_key_bias(config)
    theirs = write_folder(model, tmp_path, licence="MIT")
    loaded = zoo.load(tmp_path)
    assert (loaded.licence, loaded.layout) == ("MIT", "huggingface dinov3")
    assert loaded.model.config.norm_eps == config.norm_eps
    pixels = torch.randn(1, 3, 96, 64)
    expected = model(pixels)[0]
    assert torch.equal(loaded.model(pixels)[0], expected)
    torch.testing.assert_close(theirs(pixels).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_what_that_layout_has_no_place_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="learned positions"):
        write_folder(random_model(TINY), tmp_path, licence="MIT")
    with pytest.raises(ExportError, match="block 0 have a bias"):
        write_folder(random_model(TINY_ROPE), tmp_path, licence="MIT")
