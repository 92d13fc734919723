"""The fused ops in numpy: what the native kernels of every instruction set must compute.

Shapes: B batch, N tokens, D width, H heads, F hidden width of the MLP, P tokens with rotary positions. Everything is
float32 unless it says otherwise.
Non-finite values: a token that holds one becomes NaN as a whole, and through attention all tokens of its image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from edgekit.errors import DataError

Tier = Literal["speed", "quality"]
Rope = tuple[np.ndarray, np.ndarray]
"""Cosine and sine (P, D / H / 2) of the angles by which the queries and keys of the last P tokens turn."""

AttentionMode = Literal["f32", "hybrid", "u8", "i16", "bf16"]

ATTENTION: dict[Tier, AttentionMode] = {"speed": "hybrid", "quality": "i16"}
"""Of a block: 8-bit scores cost nothing that 8-bit linear layers do not hide, 8-bit mixing costs about 1 dB.

With AMX both tiers take "bf16": 0.4 dB better than "hybrid", 5 dB below the 61 dB of "i16" after 12 blocks, which the
rounding of the weights (40 dB) hides.
"""


class Levels(NamedTuple):
    """Steps on either side of 0 (of probabilities: above 0), and the keys that share a probability scale."""

    score: int
    probability: int
    value: int
    keys: int


LEVELS: dict[AttentionMode, Levels] = {
    "u8": Levels(127, 255, 127, 64),
    "hybrid": Levels(
        127, 3200, 2047, 320
    ),  # 3200 * 2047 * 320 is just below 2^31, and 257 tokens (224 px) are one tile
    "i16": Levels(1023, 3200, 2047, 320),
}


@dataclass(frozen=True)
class IntegerLinear:
    """int8 weight (out, in), float32 scale and bias (out,)."""

    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class FloatLinear:
    """float32 weight as matrix (in, out), bias (out,)."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class FloatBlockWeights:
    """The constants of one ViTBlock, in the order of the op's inputs 1 to 12; fc1 (D, 2 * F) makes it SwiGLU."""

    norm1: tuple[np.ndarray, np.ndarray]
    qkv: FloatLinear
    proj: FloatLinear
    norm2: tuple[np.ndarray, np.ndarray]
    fc1: FloatLinear
    fc2: FloatLinear

    def inputs(self) -> list[np.ndarray]:
        """As the op takes them."""
        qkv, proj, fc1, fc2 = ((part.weight, part.bias) for part in (self.qkv, self.proj, self.fc1, self.fc2))
        return [*self.norm1, *qkv, *proj, *self.norm2, *fc1, *fc2]


@dataclass(frozen=True)
class BlockWeights:
    """The constants of one QViTBlock, in the order of the op's inputs 1 to 17; fc1 (2 * F, D) makes it SwiGLU."""

    norm1: tuple[np.ndarray, np.ndarray]
    qkv: IntegerLinear
    proj: IntegerLinear
    norm2: tuple[np.ndarray, np.ndarray]
    fc1: IntegerLinear
    fc2: IntegerLinear
    fc2_gain: np.ndarray | None = None

    def inputs(self) -> list[np.ndarray]:
        """As the op takes them."""
        linears = [(part.weight, part.scale, part.bias) for part in (self.qkv, self.proj, self.fc1, self.fc2)]
        gain = [] if self.fc2_gain is None else [self.fc2_gain]
        return [*self.norm1, *linears[0], *linears[1], *self.norm2, *linears[2], *linears[3], *gain]


def qvit_block(
    x: np.ndarray,
    weights: BlockWeights,
    *,
    heads: int,
    scale: float,
    epsilon: float = 1e-6,
    tier: Tier = "speed",
    attention: AttentionMode | None = None,
    rope: Rope | None = None,
) -> np.ndarray:
    """One pre-norm block, y = x + proj(attention(norm1(x))), z = y + fc2(gain * activation(fc1(norm2(y)))): (B, N, D).

    Every linear layer quantizes its input per token at run time, see `quantize_speed` and `quantize_quality`; attention
    has the tier's mode of `ATTENTION` unless another one is given.
    """
    qkv = integer_linear(layer_norm(x, weights.norm1, epsilon), weights.qkv, tier)
    mixed = fused_qkv_attention(qkv, heads=heads, scale=scale, mode=attention or ATTENTION[tier], rope=rope)
    y = x + integer_linear(mixed, weights.proj, tier)
    hidden = integer_linear(layer_norm(y, weights.norm2, epsilon), weights.fc1, tier)
    hidden = activation(hidden, weights.fc2.weight.shape[1])
    if weights.fc2_gain is not None:
        hidden = hidden * weights.fc2_gain
    return y + integer_linear(hidden, weights.fc2, tier)


def vit_block(
    x: np.ndarray,
    weights: FloatBlockWeights,
    *,
    heads: int,
    scale: float,
    epsilon: float = 1e-6,
    rope: Rope | None = None,
) -> np.ndarray:
    """The same block in float32: (B, N, D)."""

    def linear(x: np.ndarray, part: FloatLinear) -> np.ndarray:
        return x @ part.weight + part.bias

    qkv = linear(layer_norm(x, weights.norm1, epsilon), weights.qkv)
    y = x + linear(fused_qkv_attention(qkv, heads=heads, scale=scale, rope=rope), weights.proj)
    hidden = linear(layer_norm(y, weights.norm2, epsilon), weights.fc1)
    return y + linear(activation(hidden, weights.fc2.weight.shape[0]), weights.fc2)


def fused_qkv_attention(
    qkv: np.ndarray, *, heads: int, scale: float, mode: AttentionMode = "f32", rope: Rope | None = None
) -> np.ndarray:
    """softmax(q k^T * scale) v over a packed projection (B, N, 3 * D), heads joined again: (B, N, D).

    With `rope`, q and k are rotated first.

    Raises:
        DataError: the last axis is not 3 * heads * head dimension.
    """
    b, n, packed = qkv.shape
    if heads <= 0 or packed % (3 * heads):
        raise DataError(f"a packed projection of width {packed} does not hold q, k and v of {heads} heads")
    q, k, v = qkv.reshape(b, n, 3, heads, -1).transpose(2, 0, 3, 1, 4)  # (B, H, N, D / H) each
    if rope is not None:
        q, k = rotated(q, rope), rotated(k, rope)
    with np.errstate(invalid="ignore", over="ignore"):
        match mode:
            case "f32":
                mixed = _attend(q, k, v, scale)
            case "bf16":
                mixed = _attend_bf16(q, k, v, scale)
            case _:
                mixed = _attend_integers(q, k, v, scale, LEVELS[mode])
    return np.ascontiguousarray(mixed.transpose(0, 2, 1, 3).reshape(b, n, packed // 3), dtype=np.float32)


def rotated(x: np.ndarray, rope: Rope) -> np.ndarray:
    """Rotary positions (RoFormer, 2104.09864) as DINOv3 pairs channels: d with d + D / H / 2; x (B, H, N, D / H).

    The tables belong to the last P tokens; those before them (class token, registers) stay as they are.
    """
    cos, sin = (np.concatenate([table, table], axis=-1) for table in rope)
    first, half = x.shape[-2] - len(cos), x.shape[-1] // 2
    turned = x[..., first:, :]
    quarter = np.concatenate([-turned[..., half:], turned[..., :half]], axis=-1)
    return np.concatenate([x[..., :first, :], turned * cos + quarter * sin], axis=-2).astype(np.float32)


def layer_norm(x: np.ndarray, parameters: tuple[np.ndarray, np.ndarray], epsilon: float) -> np.ndarray:
    """Over the last axis, biased variance."""
    centred = x - x.mean(-1, keepdims=True, dtype=np.float32)
    variance = (centred * centred).mean(-1, keepdims=True, dtype=np.float32)
    return centred / np.sqrt(variance + np.float32(epsilon)) * parameters[0] + parameters[1]


def gelu(x: np.ndarray) -> np.ndarray:
    """x * Phi(x) with the true error function."""
    erf = np.vectorize(math.erf, otypes=[np.float64])
    return (x * 0.5 * (1 + erf(x.astype(np.float64) / math.sqrt(2)))).astype(np.float32)


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + e^-x)."""
    with np.errstate(over="ignore"):
        return (x / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def activation(x: np.ndarray, hidden: int) -> np.ndarray:
    """gelu(x) of (..., F); SwiGLU of (..., 2 * F), silu(a) * b with the gates a before the values b."""
    return gelu(x) if x.shape[-1] == hidden else silu(x[..., :hidden]) * x[..., hidden:]


def integer_linear(x: np.ndarray, linear: IntegerLinear, tier: Tier) -> np.ndarray:
    """x (..., in) -> (..., out): the product exact in integers, scales and bias in float32."""
    if tier == "speed":
        integers, scale = quantize_speed(x)
    else:
        integers, scale = quantize_quality(x, activation_levels(linear.weight))
    total = integers.astype(np.float64) @ linear.weight.T.astype(np.float64)  # exact: below 2^53
    return (total * scale.astype(np.float64) * linear.scale + linear.bias).astype(np.float32)


def quantize_speed(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per token, uint8 with 0 inside the range: (integers minus the zero point, scale (..., 1))."""
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    scale = ((high - low) / np.float32(255)).astype(np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return np.clip(np.rint(x / scale) + zero, 0, 255) - zero, scale


def quantize_quality(x: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Per token, symmetric with `levels` steps on either side of 0: (integers, scale (..., 1))."""
    scale = (np.abs(x).max(-1, keepdims=True) / np.float32(levels)).astype(np.float32)
    scale = np.where(scale == 0, np.float32(1), scale)
    return np.clip(np.rint(x / scale), -levels, levels), scale


def activation_levels(weight: np.ndarray) -> int:
    """The most levels whose product with any row of `weight` (out, in) stays within int32; 32767 at most."""
    longest = int(np.abs(weight.astype(np.int64)).sum(-1).max())
    return min(32767, (2**31 - 1) // max(longest, 1))


def _attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """q, k, v (B, H, N, D / H) -> the same shape, softmax less the row's maximum."""
    scores = (q * np.float32(scale)) @ k.swapaxes(-1, -2)  # (B, H, N, N): the spec may, the kernels never do
    numerators = np.exp(scores - scores.max(-1, keepdims=True))
    return numerators @ v / numerators.sum(-1, keepdims=True)


def bfloat16(x: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, ties to even; denormals become 0."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    normal = np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), rounded.view(np.float32))
    return np.where(np.isnan(x), np.float32(np.nan), normal)


def _attend_bf16(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float) -> np.ndarray:
    """Products of bfloat16, summed in float32: the scale is in the queries, probabilities are powers of two.

    What is taken off the scores is an integer, here the one above the row's maximum: another integer leaves the
    mantissas of the probabilities as they are.
    """
    scores = bfloat16(q * np.float32(scale / math.log(2))) @ bfloat16(k).swapaxes(-1, -2)
    numerators = np.exp2(scores - np.ceil(scores.max(-1, keepdims=True)))
    return bfloat16(numerators) @ bfloat16(v) / numerators.sum(-1, keepdims=True)


def _attend_integers(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, levels: Levels) -> np.ndarray:
    """Integer products: q and k per token, keys less their mean (softmax does not see it: SageAttention, 2410.02367).

    Each tile of keys has a probability scale of its own, so none underflows however many tokens there are; the
    normaliser sums the *rounded* probabilities. Tiles join as in online softmax.
    """
    q_int, q_scale = quantize_quality(q, levels.score)
    k_int, k_scale = quantize_quality(k - k.mean(-2, keepdims=True, dtype=np.float32), levels.score)
    v_int, v_scale = (a.swapaxes(-1, -2) for a in quantize_quality(v.swapaxes(-1, -2), levels.value))
    scores = (q_int @ k_int.swapaxes(-1, -2)) * (q_scale * np.float32(scale)) * k_scale.swapaxes(-1, -2)
    top = np.full((*scores.shape[:-1], 1), -np.inf)
    total, sums = np.zeros(v.shape), np.zeros((*scores.shape[:-1], 1))
    for first in range(0, scores.shape[-1], levels.keys):
        tile = scores[..., first : first + levels.keys]
        peak = tile.max(-1, keepdims=True)
        rounded = np.rint(np.exp(tile - peak) * levels.probability)
        new = np.maximum(top, peak)
        kept, weight = np.exp(top - new), np.exp(peak - new)
        total = total * kept + weight * (rounded @ v_int[..., first : first + levels.keys, :])
        sums = sums * kept + weight * rounded.sum(-1, keepdims=True)
        top = new
    return total * v_scale / sums
