"""Every exact rewrite leaves the function as it is: the proof by test, on each kind of model."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch

from edgekit.models.vit import VisionTransformer
from edgekit.surgery import restore, state_of
from edgekit.surgery.balance_keys import balance_keys
from edgekit.surgery.balance_values import balance_values
from edgekit.surgery.centre_keys import centre_keys
from edgekit.surgery.centre_values import centre_values
from edgekit.surgery.fold_attention_scale import fold_attention_scale
from edgekit.surgery.fold_layerscale import fold_layerscale
from edgekit.surgery.fold_normalization import fold_normalization
from edgekit.surgery.rotate import mean_preserving_rotation, rotate
from edgekit.surgery.scale_hidden import scale_hidden
from edgekit.surgery.smooth_norm import smooth_norm
from tests.support.pixels import noise, size_of

TOLERANCE = 1e-4  # of `last_hidden_state`, whose values reach about 5


def _vectors(width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(width, generator=generator), torch.rand(width, generator=generator) * 3 + 0.3


def _smooth(model: VisionTransformer) -> None:
    for block in model.blocks:
        shift, scale = _vectors(model.config.width)
        smooth_norm(block.norm1, block.attn.qkv, shift, scale)
        smooth_norm(block.norm2, getattr(block.mlp, "fc1", None) or block.mlp.w12, shift, scale)


def _hidden(model: VisionTransformer) -> None:
    for block in model.blocks:
        if hasattr(block.mlp, "fc2"):
            scale_hidden(block.mlp, _vectors(block.mlp.fc2.in_features)[1])
            scale_hidden(block.mlp, _vectors(block.mlp.fc2.in_features)[1])  # composes with itself


def _rotate(model: VisionTransformer) -> None:
    fold_layerscale(model)
    rotate(model, mean_preserving_rotation(model.config.width))


def _each_block(rewrite: Callable[..., None], which: int) -> Callable[[VisionTransformer], None]:
    def apply(model: VisionTransformer) -> None:
        for block in model.blocks:
            rewrite(block, _vectors(model.config.width)[which])

    return apply


REWRITES: dict[str, Callable[[VisionTransformer], None]] = {
    "fold_layerscale": fold_layerscale,
    "fold_attention_scale": fold_attention_scale,
    "centre_keys": _each_block(centre_keys, 0),
    "centre_values": _each_block(centre_values, 0),
    "balance_keys": _each_block(balance_keys, 1),
    "balance_values": _each_block(balance_values, 1),
    "smooth_norm": _smooth,
    "scale_hidden": _hidden,
    "rotate": _rotate,
}


@pytest.fixture(scope="session")
def small_demo(demo_model: VisionTransformer) -> VisionTransformer:
    return demo_model.bake(70, 70)


@pytest.mark.parametrize("name", REWRITES)
@pytest.mark.parametrize("kind", ["small_demo", "tiny_model", "tiny_reg_model", "tiny_swiglu_model"])
@torch.no_grad()
def test_a_rewrite_changes_weights_and_not_the_function(name: str, kind: str, request: pytest.FixtureRequest) -> None:
    model: VisionTransformer = request.getfixturevalue(kind)
    pixels, rewritten = noise(size_of(model)), deepcopy(model)
    REWRITES[name](rewritten)
    if not (name == "scale_hidden" and model.config.ffn == "swiglu"):
        before, after = state_of(model), state_of(rewritten)
        assert before.keys() != after.keys() or any((before[k] != after[k]).any() for k in before)
    assert (rewritten(pixels)[0] - model(pixels)[0]).abs().max() < TOLERANCE


@torch.no_grad()
def test_all_rewrites_together_survive_being_saved(small_demo: VisionTransformer) -> None:
    rewritten, pixels = deepcopy(small_demo), noise(size_of(small_demo))
    for name, rewrite in REWRITES.items():
        if name != "rotate":
            rewrite(rewritten)
    loaded = restore(rewritten.config, state_of(rewritten))
    assert torch.equal(loaded(pixels)[0], rewritten(pixels)[0])
    assert (loaded(pixels)[0] - small_demo(pixels)[0]).abs().max() < TOLERANCE


@torch.no_grad()
def test_fold_normalization_takes_rgb(small_demo: VisionTransformer) -> None:
    from edgekit.artifact import IMAGENET_MEAN, IMAGENET_STD

    rgb = torch.randint(0, 256, (2, 3, 70, 70), generator=torch.Generator().manual_seed(2)).float()
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    folded = deepcopy(small_demo)
    fold_normalization(folded, IMAGENET_MEAN, IMAGENET_STD)
    assert (folded(rgb)[0] - small_demo((rgb / 255 - mean) / std)[0]).abs().max() < TOLERANCE


def test_a_rotation_that_moves_the_mean_is_refused(tiny_model: VisionTransformer) -> None:
    model = deepcopy(tiny_model)
    with pytest.raises(ValueError, match="LayerScale"):
        rotate(model, mean_preserving_rotation(model.config.width))
    fold_layerscale(model)
    orthogonal = torch.linalg.qr(torch.randn(model.config.width, model.config.width, dtype=torch.float64))[0]
    with pytest.raises(ValueError, match="keep the mean"):
        rotate(model, orthogonal)


def test_a_rotation_keeps_the_mean() -> None:
    q = mean_preserving_rotation(24, seed=3).numpy()
    np.testing.assert_allclose(q.T @ q, np.eye(24), atol=1e-12)
    np.testing.assert_allclose(q.sum(0), 1, atol=1e-12)
