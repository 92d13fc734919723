"""Weight rounding: never off the grid, GPTQ never worse than rounding where it counts, groups and bits respected."""

from __future__ import annotations

import pytest
import torch

from edgekit.quantization.rounding import (
    QuantGrid,
    Rounding,
    covering,
    gptq,
    least_error,
    quantize_weight,
    weight_limit,
)


def _problem(out: int = 24, width: int = 64, rows: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights, and the Hessian of strongly correlated inputs."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64) @ (mix + 0.3)
    return torch.randn(out, width, generator=generator), x.T @ x / rows


def _output_error(weight: torch.Tensor, real: torch.Tensor, hessian: torch.Tensor) -> float:
    change = (weight - real).double()
    return float(((change @ hessian) * change).sum())


def _real(steps: torch.Tensor, grid: QuantGrid) -> torch.Tensor:
    return steps * grid.columns(steps.shape[1])[0]


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("bits", [8, 7, 4])
@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("rounding", ["rtn", "mse", "gptq"])
def test_integers_stay_in_range_and_near_the_weights(
    bits: int, group: int | None, rounding: Rounding, zero_points: bool
) -> None:
    weight, hessian = _problem()
    rounded = quantize_weight(weight, bits, group, rounding, hessian, zero_points=zero_points)
    assert rounded.integers.dtype == torch.int8
    assert rounded.scale.shape == (24, 64 // (group or 64))
    assert (rounded.zero_point is not None) == zero_points
    assert int(rounded.integers.max()) <= weight_limit(bits)
    assert int(rounded.integers.min()) >= -weight_limit(bits) - zero_points
    step = rounded.scale.repeat_interleave(group or 64, 1)
    if rounding == "rtn":
        assert ((weight - rounded.real()).abs() <= step * (1 if zero_points else 0.5) * 1.0001).all()
    error = _output_error(weight, rounded.real(), hessian)
    assert error < 0.2 * float(((weight.double() @ hessian) * weight).sum())


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("bits", [8, 4])
def test_gptq_beats_rounding_on_correlated_inputs(bits: int, zero_points: bool) -> None:
    weight, hessian = _problem()
    grid = covering(weight, bits, 64, zero_points=zero_points)
    nearest = _output_error(weight, _real(grid.rounded(weight), grid), hessian)
    assert _output_error(weight, _real(gptq(weight, grid, hessian), grid), hessian) < 0.5 * nearest


def test_gptq_on_white_inputs_is_rounding() -> None:
    weight, _ = _problem()
    grid = covering(weight, 8, 64, zero_points=False)
    assert torch.equal(gptq(weight, grid, torch.eye(64)), grid.rounded(weight))


def test_gptq_survives_dead_inputs() -> None:
    weight, hessian = _problem()
    hessian[5], hessian[:, 5] = 0, 0
    steps = gptq(weight, covering(weight, 8, 64, zero_points=False), hessian)
    assert int(steps.abs().max()) <= 127


@pytest.mark.parametrize("zero_points", [False, True])
def test_the_grid_of_least_error_is_never_worse_than_the_covering_one(zero_points: bool) -> None:
    weight, _ = _problem()
    weight[:, 0] *= 4  # one wild weight per channel
    covers, least = (make(weight, 4, 64, zero_points=zero_points) for make in (covering, least_error))
    before, after = ((weight - _real(grid.rounded(weight), grid)).square().sum(1) for grid in (covers, least))
    assert (after <= before).all()
    assert (after < before).any()


def test_zero_points_move_the_grid_to_where_the_weights_are() -> None:
    """Weights from -1.2 to 4.8 in 16 steps of 0.4; a symmetric grid would need steps of 4.8 / 7."""
    weight = torch.linspace(-1.2, 4.8, 16)[None]
    rounded = quantize_weight(weight, 4, None, "rtn", torch.eye(16), zero_points=True)
    assert rounded.integers.tolist() == [list(range(-8, 8))]
    assert rounded.zero_point is not None
    torch.testing.assert_close(rounded.scale, torch.tensor([[0.4]]))
    assert (weight - rounded.real()).abs().max() < 1e-5


def test_a_group_of_zeros_stays_zero() -> None:
    for zero_points in (False, True):
        assert (
            not quantize_weight(torch.zeros(2, 16), 4, 16, "mse", torch.eye(16), zero_points=zero_points).real().any()
        )


def test_a_group_size_must_divide_the_width() -> None:
    weight, hessian = _problem()
    with pytest.raises(ValueError, match="group size 24 does not divide the input width 64"):
        quantize_weight(weight, 4, 24, "rtn", hessian)
