"""The native kernels of the ISA in use against the definition of the ops in numpy, inside ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgekit.native.reference import (
    ATTENTION,
    AttentionMode,
    BlockWeights,
    IntegerLinear,
    Rope,
    Tier,
    fused_qkv_attention,
    qvit_block,
    vit_block,
)
from tests.support.ops_models import (
    attention_model,
    block_model,
    block_weights,
    float_block_model,
    float_weights,
    isa,
    native_attention,
    rope_tables,
    run,
)

TILES = isa().startswith("amx")
BF16 = 4  # edgekit_attention_mode
BOUND = {"speed": 8e-3, "quality": 1.5e-3 if TILES else 3e-4}
"""A value on the edge of two integers may round either way: one step of 255 at the speed tier, of the 1023 of the
attention's queries and keys at the quality tier, and of bfloat16's 8 bits in tiles."""


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def block(x: np.ndarray, weights: BlockWeights, heads: int, tier: Tier, rope: Rope | None = None) -> np.ndarray:
    """The definition, with the attention that this instruction set has for the tier."""
    mode: AttentionMode = "bf16" if TILES else ATTENTION[tier]
    return qvit_block(x, weights, heads=heads, scale=np.float32(0.3), tier=tier, attention=mode, rope=rope)


@pytest.mark.parametrize("mode", ["f32", "hybrid", "u8", "i16"])
@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "dim"),
    [(1, 1, 1, 64), (3, 5, 6, 64), (1, 257, 2, 64), (2, 261, 1, 32), (1, 70, 3, 80), (1, 33, 2, 7)],
)
def test_attention_is_the_reference(mode: str, batch: int, tokens: int, heads: int, dim: int) -> None:
    qkv = np.random.default_rng(1).standard_normal((batch, tokens, 3 * heads * dim)).astype(np.float32)
    y = run(attention_model(heads * dim, num_heads=heads, mode=mode), qkv)
    expected = fused_qkv_attention(qkv, heads=heads, scale=np.float32(0.2), mode=mode)
    assert relative(y, expected) < (2e-6 if mode == "f32" else 2e-3)


@pytest.mark.parametrize(("mode", "bound"), [("f32", 1e-5), ("i16", 0.02), ("hybrid", 0.02), ("u8", 0.04)])
def test_no_probability_underflows_at_1370_tokens(mode: str, bound: float) -> None:
    rng = np.random.default_rng(2)
    qkv = rng.standard_normal((1, 1370, 192)).astype(np.float32)
    qkv[..., 64:128] += 3 * rng.standard_normal(64).astype(np.float32)  # outlier channels of the keys
    y = run(attention_model(64, num_heads=1, mode=mode, scale=0.125), qkv, threads=2)
    assert relative(y, fused_qkv_attention(qkv, heads=1, scale=0.125)) < bound


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 31, 33, 64, 65, 321, 700])
@pytest.mark.parametrize(("heads", "dim"), [(2, 64), (3, 20), (1, 128)])
def test_bfloat16_attention_is_the_reference_or_better(tokens: int, heads: int, dim: int) -> None:
    qkv = np.random.default_rng(1).standard_normal((2, tokens, 3 * heads * dim)).astype(np.float32)
    y = native_attention(qkv, heads, 0.2, BF16)
    if TILES:
        assert relative(y, fused_qkv_attention(qkv, heads=heads, scale=0.2, mode="bf16")) < 3e-3
    assert relative(y, fused_qkv_attention(qkv, heads=heads, scale=0.2)) < (8e-3 if TILES else 2e-6)


@pytest.mark.parametrize("key", [3, 70, 330, 699])
@pytest.mark.parametrize("height", [30, 60, 200, 1000])
def test_a_late_key_far_above_the_others_takes_all_of_the_attention_it_should(key: int, height: float) -> None:
    """A score 2^40 times above the first 64 keys' rescales what its query has so far, in this strip and before it."""
    qkv = np.random.default_rng(2).standard_normal((1, 700, 3 * 64)).astype(np.float32)
    qkv[0, :, 0] = 1 + np.arange(700) % 3  # queries that see it in different strength
    qkv[0, key, 64] = height
    y = native_attention(qkv, 1, 0.5, BF16)
    assert relative(y, fused_qkv_attention(qkv, heads=1, scale=0.5, mode="bf16" if TILES else "f32")) < 2e-3


def test_bfloat16_attention_passes_what_is_not_finite_on_to_its_image_alone() -> None:
    clean = np.random.default_rng(3).standard_normal((2, 70, 3 * 64)).astype(np.float32)
    for channel in (3, 70, 130):  # of the query, the key, the value
        qkv = clean.copy()
        qkv[0, 66, channel] = np.nan
        y = native_attention(qkv, 1, 0.1, BF16)
        assert np.isnan(y[0, 66]).any()
        assert channel < 64 or np.isnan(y[0]).any(axis=-1).all()
        assert np.array_equal(y[1], native_attention(clean, 1, 0.1, BF16)[1])


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 31, 33, 300])
@pytest.mark.parametrize("tier", ["speed", "quality"])
@pytest.mark.parametrize(("width", "hidden"), [(64, 260), (72, 1000)])
def test_every_count_of_rows_gives_each_row_its_own_answer(tier: Tier, rows: int, width: int, hidden: int) -> None:
    """Rows are independent but for attention: one token per image. Tiles, chunks of inputs and blocks end anywhere."""
    weights = block_weights(width, hidden)
    x = np.random.default_rng(4).standard_normal((rows, 1, width)).astype(np.float32)
    model = block_model(weights, tier=tier)
    y = run(model, x, threads=2)
    assert relative(y - x, block(x, weights, 2, tier) - x) < BOUND[tier]
    assert np.array_equal(y[-1:], run(model, x[-1:]))


@pytest.mark.parametrize("size", [1e-18, 1e3, 1e6])
@pytest.mark.parametrize("mode", ["f32", "hybrid", "u8", "i16"])
def test_scores_of_any_size_choose_the_same_keys(mode: str, size: float) -> None:
    """The larger they are, the more is one key's alone: no level overflows and no sum is lost."""
    qkv = np.random.default_rng(7).standard_normal((1, 40, 3 * 64)).astype(np.float32)
    qkv[..., :128] *= np.float32(size)
    y = run(attention_model(64, num_heads=1, mode=mode, scale=0.125), qkv)
    expected = fused_qkv_attention(qkv, heads=1, scale=0.125, mode=mode)
    tokens = np.linalg.norm(y - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert np.isfinite(y).all()
    assert np.median(tokens) < 2e-3  # two keys within a rounding of each other may change places


@pytest.mark.parametrize("tier", ["speed", "quality"])
@pytest.mark.parametrize(
    ("width", "hidden", "heads", "bits", "gain"),
    [(64, 256, 1, 8, False), (384, 1536, 6, 7, True), (48, 100, 3, 8, True), (20, 36, 2, 7, False)],
)
def test_block_is_the_reference(tier: Tier, width: int, hidden: int, heads: int, bits: int, gain: bool) -> None:
    weights = block_weights(width, hidden, bits=bits, gain=gain)
    x = np.random.default_rng(3).standard_normal((2, 37, width)).astype(np.float32)
    y = run(block_model(weights, num_heads=heads, tier=tier), x)
    expected = block(x, weights, heads, tier)
    assert relative(y - x, expected - x) < BOUND[tier]


GATED = [(64, 256, 1, 37), (64, 260, 2, 32), (48, 100, 3, 1), (24, 36, 2, 0)]
"""Width, hidden width, heads and tokens with rotary positions, of 37."""


@pytest.mark.parametrize("tier", ["speed", "quality"])
@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize(("width", "hidden", "heads", "tokens"), GATED)
def test_block_with_swiglu_and_rotary_positions_is_the_reference(
    tier: Tier, gain: bool, width: int, hidden: int, heads: int, tokens: int
) -> None:
    weights = block_weights(width, hidden, gain=gain, gated=True)
    x = np.random.default_rng(3).standard_normal((2, 37, width)).astype(np.float32)
    rope = rope_tables(tokens, width // heads)
    y = run(block_model(weights, num_heads=heads, tier=tier, rope=rope), x, threads=2)
    expected = block(x, weights, heads, tier, rope)
    assert relative(y - x, expected - x) < BOUND[tier]
    if tokens:
        assert relative(block(x, weights, heads, tier) - x, expected - x) > 2 * BOUND[tier]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(("width", "hidden", "heads", "tokens"), GATED)
def test_float_block_with_rotary_positions_is_the_reference(
    gated: bool, width: int, hidden: int, heads: int, tokens: int
) -> None:
    weights = float_weights(width, hidden, gated=gated)
    x = np.random.default_rng(3).standard_normal((2, 37, width)).astype(np.float32)
    rope = rope_tables(tokens, width // heads)
    y = run(float_block_model(weights, num_heads=heads, rope=rope), x, threads=2)
    assert relative(y, vit_block(x, weights, heads=heads, scale=np.float32(0.3), rope=rope)) < 2e-6


@pytest.mark.parametrize("mode", ["f32", "i16"])
def test_attention_alone_rotates_the_last_tokens(mode: str) -> None:
    qkv = np.random.default_rng(1).standard_normal((2, 29, 3 * 80)).astype(np.float32)
    rope = rope_tables(24, 40)
    y = run(attention_model(80, num_heads=2, mode=mode, rope=rope), qkv)
    expected = fused_qkv_attention(qkv, heads=2, scale=np.float32(0.2), mode=mode, rope=rope)
    assert relative(y, expected) < (2e-6 if mode == "f32" else 2e-3)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_gates_far_from_zero_are_closed_or_open(size: float) -> None:
    weights = float_weights(64, 128, gated=True)
    weights = replace(weights, fc1=replace(weights.fc1, bias=weights.fc1.bias * np.float32(size)))
    x = np.random.default_rng(3).standard_normal((1, 5, 64)).astype(np.float32)
    expected = vit_block(x, weights, heads=2, scale=np.float32(0.3))
    assert relative(run(float_block_model(weights), x), expected) < 2e-6


@pytest.mark.parametrize("weight", ["127", "-127", "-128", "signs", "edge"])
@pytest.mark.parametrize("tier", ["speed", "quality"])
def test_no_sum_of_the_largest_integers_saturates(tier: Tier, weight: str) -> None:
    """Tokens whose activations are 255 but for one, next to the largest weights there are."""
    rng = np.random.default_rng(8)
    weights = block_weights(64, 256)

    def filled(part: IntegerLinear) -> IntegerLinear:
        match weight:
            case "signs":
                integers = rng.choice([-128, 127], part.weight.shape)
            case "edge":  # two neighbours add up to 128 or 129
                integers = rng.choice([64, 65], part.weight.shape)
            case _:
                integers = np.full(part.weight.shape, int(weight))
        return replace(part, weight=integers.astype(np.int8))

    plain = np.ones(64, np.float32), np.zeros(64, np.float32)
    parts = {name: filled(getattr(weights, name)) for name in ("qkv", "proj", "fc1", "fc2")}
    weights = replace(weights, norm1=plain, norm2=plain, **parts)
    x = np.ones((1, 50, 64), np.float32)
    x[0, :, 9] = -60
    x[0, ::3] *= -1
    y = run(block_model(weights, tier=tier), x)
    assert relative(y, block(x, weights, 2, tier)) < 2e-3


@pytest.mark.parametrize(("width", "hidden", "heads"), [(64, 256, 1), (384, 1536, 6), (48, 100, 3), (20, 36, 2)])
def test_float_block_is_the_reference(width: int, hidden: int, heads: int) -> None:
    weights = float_weights(width, hidden)
    x = np.random.default_rng(3).standard_normal((2, 37, width)).astype(np.float32)
    x[1, 3, 2] = 1e4
    y = run(float_block_model(weights, num_heads=heads), x, threads=2)
    expected = vit_block(x, weights, heads=heads, scale=np.float32(0.3))
    assert relative(y, expected) < 2e-6
    assert relative(y[0], expected[0]) < 2e-6


@pytest.mark.parametrize("case", ["zeros", "one_hot", "outlier", "denormal", "equal"])
@pytest.mark.parametrize("tier", ["speed", "quality"])
def test_extreme_inputs_stay_finite_and_right(tier: Tier, case: str) -> None:
    weights = block_weights(64, 128)
    x = np.zeros((1, 19, 64), np.float32)
    match case:
        case "one_hot":
            x[0, 3, 5] = 1
        case "outlier":
            x = np.random.default_rng(4).standard_normal(x.shape).astype(np.float32)
            x[0, 2, 7] = 1e4
        case "denormal":
            x += 1e-40
        case "equal":
            x += 3
    y = run(block_model(weights, tier=tier), x)
    expected = block(x, weights, 2, tier)
    assert np.isfinite(y).all()
    assert relative(y, expected) < 1.5e-2


def test_a_token_that_is_not_finite_makes_nan_and_other_images_stay() -> None:
    weights = block_weights(64, 128)
    x = np.random.default_rng(5).standard_normal((2, 9, 64)).astype(np.float32)
    clean = run(block_model(weights), x)
    for bad in (np.nan, np.inf):
        x[0, 4, 2] = bad
        y = run(block_model(weights), x)
        assert np.isnan(y[0]).all()
        assert np.array_equal(y[1], clean[1])
        exact = run(float_block_model(float_weights(64, 128)), x)
        assert np.isnan(exact[0]).all()
        assert np.isfinite(exact[1]).all()


def test_threads_do_not_change_a_bit() -> None:
    weights = block_weights(64, 256)
    x = np.random.default_rng(6).standard_normal((1, 257, 64)).astype(np.float32)
    model = block_model(weights)
    assert np.array_equal(run(model, x, 1), run(model, x, 2))


def test_no_tokens_and_no_images_are_empty_answers() -> None:
    assert run(block_model(block_weights(64, 128)), np.zeros((0, 5, 64), np.float32)).shape == (0, 5, 64)
    assert run(attention_model(64, num_heads=1), np.zeros((2, 0, 192), np.float32)).shape == (2, 0, 64)
