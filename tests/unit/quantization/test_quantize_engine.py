"""The engine on tiny random models: equal surgery, deterministic bytes, resume after a kill, options that matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.errors import DataError, DriftExceeded
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import FloatInput, QuantPlan, TokenGroupInput, TokenScaledInput, gemm_names
from edgekit.quantization.engine import quantize
from edgekit.quantization.fit import GemmFit
from edgekit.quantization.sensitivity import sensitivity, sqnr_db
from edgekit.quantization.simulate import simulate
from edgekit.recipe import QuantizeRecipe
from edgekit.surgery import restore
from tests.support.pixels import pictures


@torch.no_grad()
def _sqnr(plan: QuantPlan, model: VisionTransformer, *, per_token: bool = False) -> float:
    pixels = torch.from_numpy(pictures(model, 4, seed=9))
    return sqnr_db(model(pixels)[0], simulate(plan, per_token=per_token)(pixels)[0])


@pytest.fixture(scope="module")
def plan(tiny_model: VisionTransformer) -> QuantPlan:
    return quantize(tiny_model, pictures(tiny_model), QuantizeRecipe())


def test_every_gemm_is_planned_and_the_float_part_is_the_same_function(
    plan: QuantPlan, tiny_model: VisionTransformer
) -> None:
    assert list(plan.gemms) == gemm_names(tiny_model.config, patch_embed=False)
    assert list(plan.kept_float) == ["patch_embed.proj"]
    pixels = torch.from_numpy(pictures(tiny_model, 2, seed=5))
    with torch.no_grad():
        assert (restore(plan.config, plan.float_tensors)(pixels)[0] - tiny_model(pixels)[0]).abs().max() < 1e-4
    assert _sqnr(plan, tiny_model) > 25
    assert _sqnr(plan, tiny_model, per_token=True) > 25
    verified = plan.provenance["verification"]
    assert verified["images"] == 2
    assert verified["sqnr_db"] > 25


def test_the_model_given_is_not_changed(plan: QuantPlan, tiny_model: VisionTransformer) -> None:
    assert "blocks.0.ls1.gamma" in tiny_model.state_dict()
    assert "blocks.0.ls1.gamma" not in plan.float_tensors


def test_same_images_and_recipe_give_the_same_bytes(
    plan: QuantPlan, tiny_model: VisionTransformer, tmp_path: Path
) -> None:
    again = quantize(tiny_model, pictures(tiny_model), QuantizeRecipe())
    for name, each in (("first", plan), ("second", again)):
        each.save(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    loaded = QuantPlan.load(tmp_path / "first")
    assert _sqnr(loaded, tiny_model) == _sqnr(plan, tiny_model)
    assert QuantPlan.SCHEMA.encode() in (tmp_path / "first").read_bytes()[:100_000]


def test_four_bits_gain_by_zero_points(tiny_model: VisionTransformer, tmp_path: Path) -> None:
    plans = {
        zero_points: quantize(
            tiny_model, pictures(tiny_model), QuantizeRecipe(weight_bits=4, group_size=32, zero_points=zero_points)
        )
        for zero_points in (False, True)
    }
    assert _sqnr(plans[True], tiny_model) > _sqnr(plans[False], tiny_model) + 0.5
    plans[True].save(tmp_path / "plan")
    loaded = QuantPlan.load(tmp_path / "plan")
    assert _sqnr(loaded, tiny_model) == _sqnr(plans[True], tiny_model)
    assert any(gemm.weight_zero_point is not None and gemm.weight_zero_point.any() for gemm in loaded.gemms.values())


@pytest.mark.parametrize("kind", ["tiny_reg_model", "tiny_swiglu_model"])
def test_registers_get_token_groups(kind: str, request: pytest.FixtureRequest) -> None:
    model: VisionTransformer = request.getfixturevalue(kind)
    plan = quantize(model, pictures(model, 16), QuantizeRecipe())
    for name, gemm in plan.gemms.items():
        if name.endswith(("attn.proj", "mlp.fc2", "mlp.w3")):
            assert isinstance(gemm.input, TokenScaledInput)
        else:
            assert isinstance(gemm.input, TokenGroupInput)
            assert gemm.input.split == 5
    assert _sqnr(plan, model) > 25


@pytest.mark.parametrize(
    "options",
    [
        {"level": "all"},
        {"rotate": "on"},
        {"rounding": "rtn", "smooth": "off", "activation_range": "minmax", "bias_correction": False},
        {"activation_range": "percentile"},
        {"ridge": True},
        {"overflow": "reduce-range"},
        {"weight_bits": 7.5},
        {"weight_bits": 7.5, "overflow": "reduce-range"},
        {"patch_embed": "int8"},
        {"synthetic": False},
    ],
    ids="-".join,
)
def test_every_option_gives_a_working_plan(options: dict[str, object], tiny_model: VisionTransformer) -> None:
    plan = quantize(tiny_model, pictures(tiny_model), QuantizeRecipe.model_validate(options))
    assert _sqnr(plan, tiny_model) > 18
    assert bool(plan.matmuls) == (options.get("level") == "all")
    assert ("patch_embed.proj" in plan.gemms) == (options.get("patch_embed") == "int8")
    assert ("unrotate" in plan.float_tensors) == (options.get("rotate") == "on")
    bits = 7 if options.get("overflow") == "reduce-range" else options.get("weight_bits", 8)
    assert {gemm.weight_bits for gemm in plan.gemms.values()} == {bits}
    assert max(int(np.abs(gemm.weight).max()) for gemm in plan.gemms.values()) == {7: 63, 7.5: 89, 8: 127}[bits]


@torch.no_grad()
def test_level_all_quantizes_the_attention_products(tiny_model: VisionTransformer) -> None:
    plan = quantize(tiny_model, pictures(tiny_model), QuantizeRecipe(level="all"))
    pixels = torch.from_numpy(pictures(tiny_model, 2, seed=5))
    with_products, without = (simulate(each)(pixels)[0] for each in (plan, replace(plan, matmuls={})))
    assert 25 < sqnr_db(without, with_products) < 80


@torch.no_grad()
def test_weights_alone_are_planned_without_any_range(
    plan: QuantPlan, tiny_model: VisionTransformer, tmp_path: Path
) -> None:
    recipe = QuantizeRecipe(level="all", rotate="auto", patch_embed="int8")  # of which nothing applies
    weights = quantize(tiny_model, pictures(tiny_model), recipe, inputs="float")
    assert {gemm.input for gemm in weights.gemms.values()} == {FloatInput()}
    assert list(weights.gemms) == gemm_names(tiny_model.config, patch_embed=False)
    assert not weights.matmuls
    for gemm in weights.gemms.values():  # the simulator reads one, files of float activations the other
        np.testing.assert_array_equal(gemm.bias, gemm.bias_dynamic)
    assert "unrotate" not in weights.float_tensors
    assert not any("fc2_gain" in name for name in weights.float_tensors)
    assert _sqnr(weights, tiny_model) > _sqnr(plan, tiny_model) + 3
    weights.save(tmp_path / "plan")
    assert _sqnr(QuantPlan.load(tmp_path / "plan"), tiny_model) == _sqnr(weights, tiny_model)


def test_rotation_is_chosen_by_measurement(tiny_model: VisionTransformer) -> None:
    plans = {r: quantize(tiny_model, pictures(tiny_model), QuantizeRecipe(rotate=r)) for r in ("off", "on", "auto")}
    scores = {r: plan.provenance["verification"]["sqnr_db"] for r, plan in plans.items()}
    assert scores["auto"] == max(scores["off"], scores["on"])


def test_four_bit_groups(tiny_model: VisionTransformer) -> None:
    coarse, fine = (
        quantize(tiny_model, pictures(tiny_model), QuantizeRecipe(weight_bits=4, group_size=group, patch_embed="int8"))
        for group in (None, 16)
    )
    assert fine.gemms["blocks.0.mlp.fc2"].group_size == 16
    integers = fine.gemms["blocks.0.mlp.fc2"].weight
    assert (integers.min(), integers.max()) == (-8, 7)
    assert fine.gemms["patch_embed.proj"].weight_bits == 8
    assert _sqnr(fine, tiny_model) > _sqnr(coarse, tiny_model)


def test_the_class_token_counts_as_much_as_an_eighth_of_the_patches() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 64, generator=generator)
    tokens = torch.randn(24, 129, 64, generator=generator) @ (torch.randn(64, 64, generator=generator) + 0.5)
    tokens[:, 0] = torch.randn(24, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    errors = []
    for special in (0, 1):
        fit = GemmFit(weight, torch.zeros(16), ridge=False, special=special)
        fit.update(tokens, tokens, torch.ones(24, dtype=torch.bool))
        gemm = fit.solve("blocks.0.attn.qkv", FloatInput(), QuantizeRecipe(weight_bits=4, bias_correction=False))
        squares = (tokens @ (weight - torch.from_numpy(gemm.dequantized())).T).square()
        errors.append((float(squares[:, 0].mean()), float(squares[:, 1:].mean())))
    (class_before, patches_before), (class_after, patches_after) = errors
    assert class_after < 0.8 * class_before
    assert patches_after < 1.2 * patches_before


class _Killed(BaseException):
    pass


def test_a_killed_run_continues_to_the_same_plan(
    plan: QuantPlan, tiny_model: VisionTransformer, tmp_path: Path
) -> None:
    seen: list[str] = []

    def until_the_second_block(name: str, done: int, total: int) -> None:
        seen.append(name)
        if name == "blocks.1.attn.proj":
            raise _Killed

    with pytest.raises(_Killed):
        quantize(tiny_model, pictures(tiny_model), QuantizeRecipe(), progress=until_the_second_block, cache=tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    seen.clear()
    resumed = quantize(
        tiny_model, pictures(tiny_model), QuantizeRecipe(), progress=lambda name, *_: seen.append(name), cache=tmp_path
    )
    assert "blocks.0.attn.qkv" not in seen
    assert not list(tmp_path.iterdir())
    for name, gemm in plan.gemms.items():
        np.testing.assert_array_equal(resumed.gemms[name].weight, gemm.weight)
        np.testing.assert_array_equal(resumed.gemms[name].bias, gemm.bias)
    assert resumed.provenance == plan.provenance


def test_another_recipe_does_not_continue_a_killed_run(tiny_model: VisionTransformer, tmp_path: Path) -> None:
    def at_the_second_block(name: str, done: int, total: int) -> None:
        if name == "blocks.1.attn.qkv":
            raise _Killed

    with pytest.raises(_Killed):
        quantize(tiny_model, pictures(tiny_model), QuantizeRecipe(), progress=at_the_second_block, cache=tmp_path)
    seen: list[str] = []
    recipe = QuantizeRecipe(rounding="rtn")
    quantize(tiny_model, pictures(tiny_model), recipe, progress=lambda name, *_: seen.append(name), cache=tmp_path)
    assert "blocks.0.attn.qkv" in seen


@torch.no_grad()
def test_promotion_keeps_the_costliest_gemm_float(plan: QuantPlan, tiny_model: VisionTransformer) -> None:
    promoted = quantize(tiny_model, pictures(tiny_model), QuantizeRecipe(promote=1))
    name = list(promoted.kept_float)[-1]
    assert len(promoted.kept_float) == 2
    assert name not in promoted.gemms
    unseen = torch.from_numpy(pictures(tiny_model)[-2:])
    assert sensitivity(plan, unseen, tiny_model(unseen)[0])[0].name == name
    assert _sqnr(promoted, tiny_model) > _sqnr(plan, tiny_model)


@torch.no_grad()
def test_promotion_of_4_bit_weights_gives_them_8(tiny_model: VisionTransformer) -> None:
    four = QuantizeRecipe(weight_bits=4, group_size=32)
    plan = quantize(tiny_model, pictures(tiny_model), four)
    promoted = quantize(tiny_model, pictures(tiny_model), four.model_copy(update={"promote": 2}))
    wider = {name for name, gemm in promoted.gemms.items() if name.startswith("blocks.") and gemm.weight_bits == 8}
    assert wider == set(promoted.provenance["promoted"])
    assert len(wider) == 2
    assert promoted.kept_float == plan.kept_float
    for name in wider:
        exact = promoted.float_tensors[f"{name}.weight"]
        assert np.abs(promoted.gemms[name].dequantized() - exact).max() <= np.abs(exact).max() / 100
    assert _sqnr(promoted, tiny_model) > _sqnr(plan, tiny_model)


def test_a_drop_out_of_reach_is_an_error(tiny_model: VisionTransformer) -> None:
    with pytest.raises(DriftExceeded, match="with 2 GEMMs promoted"):
        quantize(tiny_model, pictures(tiny_model), QuantizeRecipe(promote=2, max_drop=1e-9))


@pytest.mark.parametrize("shape", [(3, 3, 70, 70), (8, 3, 56, 70)])
def test_pixels_of_another_shape_are_refused(shape: tuple[int, ...], tiny_model: VisionTransformer) -> None:
    with pytest.raises(DataError, match="at least 4 images"):
        quantize(tiny_model, np.zeros(shape, np.float32), QuantizeRecipe())
