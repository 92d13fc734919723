"""Rewrites behind rotary positions: exact where they say so, refused where they would not be."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch

from edgekit.models.config import ViTConfig
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.plan.quant import QuantPlan, TokenGroupInput
from edgekit.quantization.engine import quantize
from edgekit.quantization.simulate import simulate
from edgekit.recipe import QuantizeRecipe
from edgekit.surgery import centre_keys as before
from edgekit.surgery import centre_turned_keys as behind
from edgekit.surgery import restore, state_of
from edgekit.surgery.balance_keys import alike_in_pairs, balance_keys
from edgekit.surgery.balance_values import balance_values
from edgekit.surgery.centre_values import centre_values
from edgekit.surgery.fold_attention_scale import fold_attention_scale
from edgekit.surgery.fold_layerscale import fold_layerscale
from edgekit.surgery.fold_normalization import fold_normalization
from edgekit.surgery.rotate import mean_preserving_rotation, rotate
from edgekit.surgery.smooth_norm import smooth_norm
from tests.support.models import TINY, TINY_ROPE, TINY_ROPE_SWIGLU

SIZE = (80, 48)
WIDTH, HEADS = TINY_ROPE.width, TINY_ROPE.heads
Rewrite = Callable[[VisionTransformer], None]


def _values(seed: int) -> torch.Tensor:
    return torch.rand(WIDTH, generator=torch.Generator().manual_seed(seed)) + 0.5


def _each(rewrite: Callable[..., None], *values: torch.Tensor) -> Rewrite:
    def apply(model: VisionTransformer) -> None:
        for block in model.blocks:
            rewrite(block, *values)

    return apply


def _smooth(model: VisionTransformer) -> None:
    for block in model.blocks:
        smooth_norm(block.norm1, block.attn.qkv, _values(1), _values(2))


def _rotate(model: VisionTransformer) -> None:
    fold_layerscale(model)
    rotate(model, mean_preserving_rotation(WIDTH))


REWRITES: dict[str, Rewrite] = {
    "fold_layerscale": fold_layerscale,  # type: ignore[dict-item]
    "fold_attention_scale": fold_attention_scale,  # type: ignore[dict-item]
    "smooth_norm": _smooth,
    "centre_values": _each(centre_values, _values(3)),
    "balance_values": _each(balance_values, _values(4)),
    "balance_keys": _each(balance_keys, alike_in_pairs(_values(5), HEADS)),
    "centre_turned_keys": _each(behind.centre_turned_keys, _values(6)),
    "rotate": _rotate,
}


def _pixels(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def _apart(model: VisionTransformer, other: VisionTransformer) -> float:
    expected, found = model(_pixels())[0], other(_pixels())[0]
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("config", [TINY_ROPE, TINY_ROPE_SWIGLU], ids=lambda config: config.arch)
@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_is_exact_and_survives_being_saved(name: str, config: ViTConfig) -> None:
    model = random_model(config).bake(*SIZE)
    rewritten = deepcopy(model)
    REWRITES[name](rewritten)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), rewritten.parameters(), strict=False)) or (
        len(list(model.parameters())) != len(list(rewritten.parameters())) or name == "centre_turned_keys"
    )
    assert _apart(model, rewritten) <= 1e-4
    assert _apart(rewritten, restore(rewritten.config, state_of(rewritten))) == 0


def test_all_rewrites_together_are_exact() -> None:
    model = random_model(TINY_ROPE).bake(*SIZE)
    rewritten = deepcopy(model)
    for rewrite in REWRITES.values():
        rewrite(rewritten)
    assert _apart(model, rewritten) <= 1e-4


def test_pixels_may_be_normalised_in_the_graph() -> None:
    model = random_model(TINY_ROPE).bake(*SIZE)
    transform = TINY_ROPE.preprocess(*SIZE)
    mean, std = (torch.tensor(values)[:, None, None] for values in (transform.mean, transform.std))
    folded = deepcopy(model)
    fold_normalization(folded, transform.mean, transform.std)
    with torch.no_grad():
        expected, found = model(_pixels())[0], folded((_pixels() * std + mean) * 255)[0]
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-4


def test_what_would_not_be_exact_is_refused() -> None:
    turned, plain = random_model(TINY_ROPE).blocks[0], random_model(TINY).blocks[0]
    assert (before.valid_for(TINY), before.valid_for(TINY_ROPE)) == (True, False)
    assert (behind.valid_for(TINY), behind.valid_for(TINY_ROPE)) == (False, True)
    with pytest.raises(ValueError, match="in front of the rotation"):
        before.centre_keys(turned, _values(1))
    with pytest.raises(ValueError, match="are not turned"):
        behind.centre_turned_keys(plain, _values(1))
    with pytest.raises(ValueError, match="turn together"):
        balance_keys(turned, _values(1))


@pytest.mark.parametrize("level", ["linears", "all"])
@pytest.mark.parametrize("config", [TINY_ROPE, TINY_ROPE_SWIGLU], ids=lambda config: config.arch)
def test_the_engine_plans_them(config: ViTConfig, level: str) -> None:
    model = random_model(config).bake(*SIZE)
    recipe = QuantizeRecipe.model_validate({"level": level, "synthetic": False})
    plan: QuantPlan = quantize(model, _pixels(12, seed=1).numpy(), recipe)
    assert _apart(model, restore(plan.config, plan.float_tensors)) <= 1e-4
    centred = [name for name in plan.float_tensors if name.endswith("key_centre")]
    assert len(centred) == (config.depth if level == "all" else 0)
    assert isinstance(plan.gemms["blocks.0.attn.qkv"].input, TokenGroupInput)
    with torch.no_grad():
        expected, found = model(_pixels())[0].numpy(), simulate(plan)(_pixels())[0].numpy()
    noise = np.square(found - expected).sum() / np.square(expected).sum()
    assert noise < 10**-2  # 20 dB, of random weights
