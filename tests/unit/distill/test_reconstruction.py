"""Recovery gives back features that coarse integers lost, stays on the grid, and never makes a plan worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.distill.reconstruction import STREAM_BYTES, VIEWS, ReconstructionRecipe, _rounds_of_views, reconstruct
from edgekit.distill.views import views
from edgekit.errors import DataError
from edgekit.models.config import ARCHITECTURES
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import FloatInput, QuantPlan
from edgekit.quantization.engine import quantize
from edgekit.quantization.sensitivity import sqnr_db
from edgekit.quantization.simulate import simulate
from edgekit.recipe import QuantizeRecipe
from tests.support.pixels import pictures

QUICK = ReconstructionRecipe(block_steps=60, end_steps=30, weight_rate=2e-3)
FOUR = QuantizeRecipe(weight_bits=4, group_size=32)


@torch.no_grad()
def _sqnr(plan: QuantPlan, model: VisionTransformer) -> float:
    pixels = torch.from_numpy(pictures(model, 6, seed=9))
    return sqnr_db(model(pixels)[0], simulate(plan)(pixels)[0])


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_reg_model"])
def test_four_bit_weights_gain(kind: str, request: pytest.FixtureRequest) -> None:
    model: VisionTransformer = request.getfixturevalue(kind)
    plan = quantize(model, pictures(model, 24), FOUR)
    recovered = reconstruct(plan, pictures(model, 24), QUICK)
    assert recovered.provenance["recovery"] in ("block-wise", "end-to-end")
    assert _sqnr(recovered, model) > _sqnr(plan, model) + 0.8
    for name, gemm in recovered.gemms.items():
        assert gemm.weight.dtype == np.int8
        assert int(gemm.weight.max()) <= 2 ** (gemm.weight_bits - 1) - 1
        assert int(gemm.weight.min()) >= -(2 ** (gemm.weight_bits - 1))
        assert gemm.weight_scale.shape == plan.gemms[name].weight_scale.shape
        assert type(gemm.input) is type(plan.gemms[name].input)
    for key, value in plan.float_tensors.items():
        np.testing.assert_array_equal(recovered.float_tensors[key], value)


def test_what_was_verified_is_what_is_returned(tiny_model: VisionTransformer) -> None:
    plan = quantize(tiny_model, pictures(tiny_model, 24), FOUR)
    harmful = ReconstructionRecipe(block_steps=3, end_steps=0, weight_rate=3.0, scale_rate=0.5, bias_rate=0.5)
    kept = reconstruct(plan, pictures(tiny_model, 24), harmful)
    assert kept.provenance["recovery"] == "none helped"
    np.testing.assert_array_equal(kept.gemms["blocks.0.attn.qkv"].weight, plan.gemms["blocks.0.attn.qkv"].weight)


def test_the_same_seed_gives_the_same_integers(tiny_model: VisionTransformer) -> None:
    plan = quantize(tiny_model, pictures(tiny_model, 24), FOUR)
    first, second = (
        reconstruct(plan, pictures(tiny_model, 24), ReconstructionRecipe(block_steps=5, end_steps=2)) for _ in range(2)
    )
    for name in plan.gemms:
        np.testing.assert_array_equal(first.gemms[name].weight, second.gemms[name].weight)


@torch.no_grad()
def test_weights_alone_are_recovered_too(tiny_model: VisionTransformer) -> None:
    """Also where the caller has switched gradients off."""
    plan = quantize(tiny_model, pictures(tiny_model, 24), FOUR, inputs="float")
    recovered = reconstruct(plan, pictures(tiny_model, 24), QUICK)
    assert _sqnr(recovered, tiny_model) > _sqnr(plan, tiny_model) + 0.5
    assert {gemm.input for gemm in recovered.gemms.values()} == {FloatInput()}
    for name, gemm in recovered.gemms.items():
        np.testing.assert_array_equal(gemm.bias, gemm.bias_dynamic)
        assert (gemm.bias != plan.gemms[name].bias).any()


def _ramps() -> torch.Tensor:
    """Twelve images that grow from left to right, each in a range of its own."""
    ramp = torch.linspace(0, 1, 28).expand(3, 28, 28)
    return torch.stack([ramp + 10 * image for image in range(12)])


def test_views_are_crops_of_their_own_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.distill.views.MIXED", 0)
    monkeypatch.setattr("edgekit.distill.views.COLOURED", 0)
    seen = views(_ramps(), torch.Generator().manual_seed(0))
    assert seen.shape == (12, 3, 28, 28)
    low, high = seen.amin((1, 2, 3)), seen.amax((1, 2, 3))
    assert torch.equal(((low + high) / 2).floor(), 10 * torch.arange(12.0))
    assert (high - low >= 0.3).all()
    assert (high - low <= 1.1).all()  # bicubic enlargement overshoots a little
    assert len((high - low).round(decimals=2).unique()) > 6
    growing = seen[:, 0, 0, -1] > seen[:, 0, 0, 0]
    assert growing.any()
    assert not growing.all()


def test_some_views_are_mixed_and_coloured_within_the_range_of_the_images() -> None:
    images = _ramps()
    seen = views(images, torch.Generator().manual_seed(0))
    assert torch.equal(seen, views(images, torch.Generator().manual_seed(0)))
    assert not torch.equal(seen, views(images, torch.Generator().manual_seed(1)))
    assert float(seen.min()) >= float(images.min())
    assert float(seen.max()) <= float(images.max())
    spread = seen.amax((1, 2, 3)) - seen.amin((1, 2, 3))
    assert (spread > 5).any()  # a part of another image
    assert (spread < 1.1).any()
    grey = (seen[:, 0] - seen[:, 1]).abs().amax((1, 2)) < 1e-6
    assert grey.any()
    assert not grey.all()


def test_views_are_fewer_where_their_tokens_are_many() -> None:
    small, large = (replace(ARCHITECTURES["dinov2_vitb14"], grid=(side, side)) for side in (8, 37))
    assert _rounds_of_views(small, 100) == VIEWS // 100 - 1
    assert _rounds_of_views(large, 100) == STREAM_BYTES // (4 * 768 * 1370) // 100 - 1
    assert _rounds_of_views(large, 10_000) == 1


def test_too_few_images_are_refused(tiny_model: VisionTransformer) -> None:
    plan = quantize(tiny_model, pictures(tiny_model, 8), FOUR)
    with pytest.raises(DataError, match="7 images are too few"):
        reconstruct(plan, pictures(tiny_model, 7))
