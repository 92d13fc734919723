"""The simulator against integer arithmetic spelled out in numpy."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import (
    GemmPlan,
    InputQuantizer,
    MatmulPlan,
    PerTokenInput,
    StaticInput,
    TokenGroupInput,
    TokenScaledInput,
    dither,
)
from edgekit.quantization.ranges import static_input
from edgekit.quantization.simulate import IntegerLinear, IntegerMix, quantize_input

STATIC = static_input(-1.5, 2.25)
SCALED = TokenScaledInput(static_input(-0.5, 1))
GROUPS = TokenGroupInput(2, StaticInput(0.05, 40), StaticInput(0.01, 120))


def _gemm(quantizer: InputQuantizer, groups: int = 1, bits: int = 8) -> GemmPlan:
    rng, limit = np.random.default_rng(0), 2 ** (bits - 1) - 1
    return GemmPlan(
        "fc",
        rng.integers(-limit, limit + 1, (5, 32)).astype(np.int8),
        rng.uniform(0.001, 0.01, (5, groups)).astype(np.float32),
        bits,
        rng.normal(size=5).astype(np.float32),
        rng.normal(size=5).astype(np.float32),
        quantizer,
    )


def _tokens() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(2, 7, 32)).astype(np.float32)


def _spelled_out(gemm: GemmPlan, x: np.ndarray, quantizer: InputQuantizer, bias: np.ndarray) -> np.ndarray:
    """The formulas of `edgekit.plan.quant`, token by token, in int32."""
    y = np.empty((*x.shape[:2], len(gemm.weight)), np.float64)
    for b, n in np.ndindex(*x.shape[:2]):
        row = x[b, n]
        match quantizer:
            case StaticInput(scale, zero):
                pass
            case TokenGroupInput(split, head, tail):
                scale, zero = (head.scale, head.zero_point) if n < split else (tail.scale, tail.zero_point)
            case TokenScaledInput(quotient):
                scale, zero = np.float32(quotient.scale) * np.abs(row).max(), quotient.zero_point
            case PerTokenInput():
                low, high = min(row.min(), np.float32(0)), max(row.max(), np.float32(0))
                scale = np.float32(high - low) / np.float32(255)
                zero = int(np.rint(-low / scale))
        q = np.clip(np.rint(row / np.float32(scale)) + zero, 0, 255).astype(np.int32) - np.int32(zero)
        for group, (part, weight) in enumerate(
            zip(
                np.split(q, gemm.weight_scale.shape[1]),
                np.split(gemm.weight, gemm.weight_scale.shape[1], 1),
                strict=True,
            )
        ):
            total = weight.astype(np.int32) @ part
            y[b, n] = total * gemm.weight_scale[:, group].astype(np.float64) * scale + (y[b, n] if group else 0)
    return (y + bias).astype(np.float32)


@pytest.mark.parametrize("quantizer", [STATIC, GROUPS, SCALED, PerTokenInput()], ids=lambda q: q.kind)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("kernel", ["int32", "float32"])
def test_a_linear_is_the_plans_integer_arithmetic(quantizer: InputQuantizer, groups: int, kernel: str) -> None:
    gemm, x = _gemm(quantizer, groups), _tokens()
    actual = IntegerLinear(gemm, kernel=kernel)(torch.from_numpy(x)).numpy()  # type: ignore[arg-type]
    np.testing.assert_allclose(actual, _spelled_out(gemm, x, quantizer, gemm.bias), rtol=1e-5, atol=1e-5)


def test_per_token_override_takes_the_uncorrected_bias() -> None:
    gemm, x = _gemm(STATIC), _tokens()
    actual = IntegerLinear(gemm, per_token=True)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(actual, _spelled_out(gemm, x, PerTokenInput(), gemm.bias_dynamic), rtol=1e-5, atol=1e-5)


def test_what_a_token_is_multiplied_by_does_not_change_its_integers() -> None:
    x = torch.from_numpy(_tokens())
    q, scale, _ = quantize_input(SCALED, x)
    larger, larger_scale, _ = quantize_input(SCALED, 64 * x)
    assert torch.equal(q, larger)
    assert torch.equal(64 * scale, larger_scale)


def test_rounding_is_half_to_even() -> None:
    q, _, _ = quantize_input(StaticInput(1.0, 10), torch.tensor([[[0.5, 1.5, 2.5, -0.5, -1.5]]]))
    assert q.flatten().tolist() == [10, 12, 12, 10, 8]


@pytest.mark.parametrize("quantizer", [SCALED, PerTokenInput()], ids=lambda q: q.kind)
def test_a_token_of_zeros_stays_zero(quantizer: InputQuantizer) -> None:
    gemm = _gemm(quantizer)
    y = IntegerLinear(gemm)(torch.zeros(1, 3, 32))
    np.testing.assert_array_equal(y[0, 0].numpy(), gemm.bias)


def test_saturation_hits_eight_bit_weights_and_never_seven_bit_ones() -> None:
    x = torch.full((1, 3, 32), 2.25)  # 255 everywhere: pairs reach 2 * 255 * 127 = 64770, int16 holds 32767
    for bits, saturates in ((8, True), (7, False)):
        gemm = _gemm(STATIC, bits=bits)
        gemm = replace(gemm, weight=np.full_like(gemm.weight, 2 ** (bits - 1) - 1))
        exact, narrow = (IntegerLinear(gemm, kernel=kernel)(x) for kernel in ("int32", "pmaddubsw"))  # type: ignore[arg-type]
        assert bool((exact != narrow).any()) is saturates


@torch.no_grad()
@pytest.mark.parametrize(
    ("drawn", "bound"), [(2, 0.02), (6.5, 0.04)], ids=["somewhat", "so that the others are below half a step each"]
)
def test_rounded_probabilities_do_not_underflow(drawn: float, bound: float, tiny_model: VisionTransformer) -> None:
    """One key draws attention, 1369 share the rest: rounding them to nearest would lose all of them."""
    attention = deepcopy(tiny_model.blocks[0].attn)
    heads, tokens, width = attention.heads, 1370, 8
    generator = torch.Generator().manual_seed(0)
    q, v = torch.ones(1, heads, 4, width), torch.randn(1, heads, tokens, width, generator=generator) + 1
    k = torch.randn(1, heads, tokens, width, generator=generator) * 0.1
    k[:, :, 0] += drawn / attention.scale / width  # e^drawn times the weight of any other
    one = np.ones(heads, np.float32)
    matmul = MatmulPlan("attn", one / 127, one * np.float32(k.abs().max()) / 127, one * np.float32(v.abs().max()) / 127)
    mixed, exact = IntegerMix(matmul, attention.scale)(q, k, v), attention.mix(q, k, v)
    assert (mixed - exact).abs().max() < bound * exact.abs().max()


def test_dither_spreads_evenly_over_one_step() -> None:
    for tokens in (17, 257, 1370):
        offsets = np.sort(dither(tokens, 1 / 255)) * 255
        assert offsets[0] >= -0.5
        assert offsets[-1] < 0.5
        assert np.diff(offsets).max() < 3 / tokens
