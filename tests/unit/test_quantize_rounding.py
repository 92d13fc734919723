"""Weight rounding: never off the grid, GPTQ never worse than rounding where it counts, groups and bits respected."""

from __future__ import annotations

import pytest
import torch

from edgekit.quantize.rounding import gptq, max_scale, mse_scale, quantize_weight, round_to_nearest, weight_limit


def _problem(out: int = 24, width: int = 64, rows: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and the Hessian of strongly correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64) @ (mix + 0.3)
    return torch.randn(out, width, generator=generator), x.T @ x / rows


def _output_error(weight: torch.Tensor, integers: torch.Tensor, scale: torch.Tensor, hessian: torch.Tensor) -> float:
    step = scale.repeat_interleave(weight.shape[1] // scale.shape[1], 1)
    change = (weight - integers * step).double()
    return float(((change @ hessian) * change).sum())


@pytest.mark.parametrize("bits", [8, 7, 4])
@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("rounding", ["rtn", "mse", "gptq"])
def test_integers_stay_in_range_and_near_the_weights(bits: int, group: int | None, rounding: str) -> None:
    weight, hessian = _problem()
    integers, scale = quantize_weight(weight, bits, group, rounding, hessian)  # type: ignore[arg-type]
    assert integers.dtype == torch.int8
    assert scale.shape == (24, 64 // (group or 64))
    assert int(integers.abs().max()) <= weight_limit(bits)
    step = scale.repeat_interleave(group or 64, 1)
    if rounding == "rtn":
        assert ((weight - integers * step).abs() <= step / 2 * 1.0001).all()
    assert _output_error(weight, integers, scale, hessian) < 0.2 * float(((weight.double() @ hessian) * weight).sum())


@pytest.mark.parametrize("bits", [8, 4])
def test_gptq_beats_rounding_on_correlated_inputs(bits: int) -> None:
    weight, hessian = _problem()
    scale = max_scale(weight, bits, 64)
    nearest = _output_error(weight, round_to_nearest(weight, scale, bits), scale, hessian)
    assert _output_error(weight, gptq(weight, scale, bits, hessian), scale, hessian) < 0.5 * nearest


def test_gptq_on_white_inputs_is_rounding() -> None:
    weight, _ = _problem()
    scale = max_scale(weight, 8, 64)
    assert torch.equal(gptq(weight, scale, 8, torch.eye(64)), round_to_nearest(weight, scale, 8))


def test_gptq_survives_dead_inputs() -> None:
    weight, hessian = _problem()
    hessian[5], hessian[:, 5] = 0, 0
    integers = gptq(weight, max_scale(weight, 8, 64), 8, hessian)
    assert int(integers.abs().max()) <= 127


def test_mse_scale_is_never_worse_than_the_covering_one() -> None:
    weight, _ = _problem()
    weight[:, 0] *= 4  # one wild weight per channel
    errors = {
        name: (weight - round_to_nearest(weight, scale, 4) * scale).square().sum(1)
        for name, scale in (("max", max_scale(weight, 4, 64)), ("mse", mse_scale(weight, 4, 64)))
    }
    assert (errors["mse"] <= errors["max"]).all()
    assert (errors["mse"] < errors["max"]).any()


def test_a_group_size_must_divide_the_width() -> None:
    weight, hessian = _problem()
    with pytest.raises(ValueError, match="group size 24 does not divide the input width 64"):
        quantize_weight(weight, 4, 24, "rtn", hessian)
