"""`explain` finds what was put in: the damaged GEMM, the outlier channel and token, the kernel that saturates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import QuantPlan
from edgekit.quantization.engine import quantize
from edgekit.quantization.explain import explain, layer_drift
from edgekit.quantization.explanation import Explanation
from edgekit.recipe import QuantizeRecipe
from tests.support.pixels import noise, size_of


@pytest.fixture(scope="module")
def plan(tiny_reg_model: VisionTransformer) -> QuantPlan:
    return quantize(tiny_reg_model, noise(size_of(tiny_reg_model), 8).numpy(), QuantizeRecipe())


def test_the_parts_add_up(plan: QuantPlan, tiny_reg_model: VisionTransformer) -> None:
    found = explain(plan, noise(size_of(tiny_reg_model), 2))
    assert {row.name for row in found.gemms} == set(plan.gemms)
    assert sum(row.noise_share for row in found.gemms) == pytest.approx(1)
    assert [row.sqnr_db for row in found.gemms] == sorted(row.sqnr_db for row in found.gemms)
    assert found.whole_db < min(found.weights_only_db, found.inputs_only_db)
    assert found.whole_db < found.gemms[0].sqnr_db
    assert len(found.blocks) == 2
    assert found.blocks[0].register_db is not None
    assert found.blocks[0].all_db > found.blocks[1].all_db > found.whole_db - 6
    assert Explanation.model_validate_json(found.model_dump_json()) == found


def test_the_drift_behind_each_block_alone_is_that_of_the_whole_explanation(plan: QuantPlan, tiny_reg_model) -> None:
    pixels = noise(size_of(tiny_reg_model), 2)
    found = layer_drift(plan, pixels)
    assert found.images == 2
    assert found.blocks == explain(plan, pixels, saturation=False).blocks


def test_a_plan_of_weights_alone_has_no_inputs_to_blame(tiny_model: VisionTransformer) -> None:
    plan = quantize(tiny_model, noise(size_of(tiny_model), 8).numpy(), QuantizeRecipe(), inputs="float")
    found = explain(plan, noise(size_of(tiny_model), 2))
    assert found.inputs_only_db is None
    assert found.saturating_db is None
    assert found.whole_db == pytest.approx(found.weights_only_db, abs=0.1)
    assert {row.input_kind for row in found.gemms} == {"float"}


def test_a_damaged_gemm_is_named_first(plan: QuantPlan, tiny_reg_model: VisionTransformer) -> None:
    name = "blocks.1.mlp.fc1"
    broken = replace(plan.gemms[name], weight=np.roll(plan.gemms[name].weight, 1, axis=0))
    found = explain(
        replace(plan, gemms=plan.gemms | {name: broken}), noise(size_of(tiny_reg_model), 2), saturation=False
    )
    assert found.gemms[0].name == name
    assert found.gemms[0].noise_share > 0.9
    assert found.saturating_db is None


def test_saturation_costs_eight_bit_weights_and_not_seven_bit_ones(tiny_model: VisionTransformer) -> None:
    costs = {}
    for overflow in ("none", "reduce-range"):
        plan = quantize(tiny_model, noise(size_of(tiny_model), 8).numpy(), QuantizeRecipe(overflow=overflow))
        for name, gemm in plan.gemms.items():  # as heavy as weights can be
            limit = 2 ** (gemm.weight_bits - 1) - 1
            plan.gemms[name] = replace(gemm, weight=np.where(gemm.weight > 0, limit, -limit).astype(np.int8))
        found = explain(plan, noise(size_of(tiny_model), 1))
        assert found.saturating_db is not None
        costs[overflow] = abs(found.whole_db - found.saturating_db)
    assert costs["none"] > 0.03
    assert costs["reduce-range"] < 0.003


def test_outliers_are_located(tiny_model: VisionTransformer) -> None:
    from copy import deepcopy

    model = deepcopy(tiny_model)
    with (
        torch.no_grad()
    ):  # one channel of block 0's first norm speaks thirty times louder, as no smoothing would leave it
        model.blocks[0].norm1.weight[7] *= 30
    found = explain(
        quantize(model, noise(size_of(model), 8).numpy(), QuantizeRecipe(smooth="off")),
        noise(size_of(model), 2),
        saturation=False,
    )
    row = next(row for row in found.gemms if row.name == "blocks.0.attn.qkv")
    assert row.peak_channel == 7
    assert row.peak_over_median is not None
    assert row.peak_over_median > 10
    assert row.before == pytest.approx(row.peak_over_median, rel=0.5)
