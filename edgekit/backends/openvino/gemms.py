"""Matrix products in OpenVINO: float, int8 weights, or FakeQuantize in front of int8 weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from openvino import opset13 as op
from typing_extensions import override

from edgekit.backends.openvino.builder import LEVELS, QUANTIZER, constant, dequantized, fake_quantize, ints
from edgekit.errors import ExportError
from edgekit.graph.emitter import Sides, Tensors
from edgekit.graph.gemms import GemmStrategy
from edgekit.plan.quant import LEAST_PEAK, GemmPlan, StaticInput, TokenGroupInput, TokenScaledInput, dither

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig
    from edgekit.plan.quant import QuantPlan


class FloatGemms(GemmStrategy[ov.Output]):
    """Every product in float32, with weights and biases straight from the model's tensors."""

    def __init__(self, config: ViTConfig, tensors: Tensors, sides: Sides | None = None) -> None:
        """`sides` are those of images whose size is known at run time only."""
        self.config, self.tensors, self.sides = config, tensors, sides

    @override
    def linear(self, name: str, x: ov.Output) -> ov.Output:
        return self.product(name, x, self.weight(name), self.bias(name))

    def product(self, name: str, x: ov.Output, weight: ov.Output, bias: ov.Output) -> ov.Output:
        """MatMul and Add: x W^T + b under the module's name."""
        x = op.matmul(x, weight, False, True, name=name).output(0)
        return op.add(x, bias, name=f"{name}/bias").output(0)

    @override
    def patch_embed(self, name: str, pixels: ov.Output) -> ov.Output:
        sides, none = [self.config.patch] * 2, [0, 0]
        x = op.convolution(pixels, self.weight(name), sides, none, none, [1, 1], name=name).output(0)
        x = op.add(x, self.bias(name, (1, -1, 1, 1)), name=f"{name}/bias").output(0)  # (B, D, rows, columns)
        rows, columns = self.config.grid
        shape = ints([0, self.config.width, -1 if self.sides else rows * columns], "patch_embed.shape")
        x = op.reshape(x, shape, True, name="patch_embed.flatten")  # (B, D, P)
        return op.transpose(x, ints([0, 2, 1], "patch_embed.order"), name="patch_embed.tokens").output(0)

    @override
    def attention(self, name: str, q: ov.Output, k: ov.Output, v: ov.Output) -> ov.Output:
        """One ScaledDotProductAttention, which the CPU plugin compiles into one fused kernel."""
        scale, no_mask = constant(self.scale(name), f"{name}.scale"), constant(np.float32(0), f"{name}.no_mask")
        return op.scaled_dot_product_attention(q, k, v, no_mask, scale, name=f"{name}.sdpa").output(0)

    def scale(self, name: str) -> np.float32:
        """The factor on the logits q k^T of an attention."""
        return np.float32(self.tensors[f"{name}.scale"].item())

    def weight(self, name: str) -> ov.Output:
        """Float32 weights: (out, in), or (D, 3, patch, patch) of the patch embedding."""
        return constant(self.tensors[f"{name}.weight"], f"{name}.weight")

    def bias(self, name: str, shape: tuple[int, ...] = (1, 1, -1)) -> ov.Output:
        """Bias in float32."""
        return constant(self.tensors[f"{name}.bias"].reshape(shape), f"{name}.bias")


class WeightGemms(FloatGemms):
    """w8: int8 constants -> Convert -> Multiply by the scale; activations and arithmetic stay float.

    The runtime keeps the integers in memory and dequantizes inside the GEMM. The bias is the uncorrected one, since
    the corrected one repairs an activation error that does not occur here.
    """

    def __init__(self, plan: QuantPlan, sides: Sides | None = None) -> None:
        super().__init__(plan.config, plan.float_tensors, sides)
        self.plan = plan

    @override
    def weight(self, name: str) -> ov.Output:
        gemm = self.plan.gemms.get(name)  # None where the plan keeps it float
        return super().weight(name) if gemm is None else integer_weight(gemm, self.tensors[f"{name}.weight"].shape)

    @override
    def bias(self, name: str, shape: tuple[int, ...] = (1, 1, -1)) -> ov.Output:
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().bias(name, shape)
        return constant(self.planned_bias(gemm).reshape(shape), f"{name}.bias")

    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        """The plan's bias (out,) for the inputs that this strategy gives the GEMM."""
        return gemm.bias_dynamic


class StaticGemms(WeightGemms):
    """w8a8: a FakeQuantize with the range of the plan's scale and zero point in front of integer weights.

    The CPU plugin's low-precision pass turns each pair into one int8 GEMM. Attention products stay float unless the
    plan has scales for them (level "all").
    """

    @override
    def linear(self, name: str, x: ov.Output) -> ov.Output:
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().linear(name, x)
        match gemm.input:
            case TokenScaledInput():
                return self._token_scaled(gemm, gemm.input, x)
            case TokenGroupInput():
                return self._token_groups(gemm, gemm.input, x)
        return super().linear(name, self.quantize(gemm, gemm.input, x))

    def _token_groups(self, gemm: GemmPlan, groups: TokenGroupInput, x: ov.Output) -> ov.Output:
        """A product per token group, both over the same integers, joined again.

        Ranges per row in one FakeQuantize would be shorter, but the low-precision pass (2026.4) throws on zero points
        that differ between rows.
        """
        name, rest = gemm.name, -1 if self.sides else self.config.tokens(*self.plan.image_size) - groups.split
        lengths = ints([groups.split, rest], f"{name}.group_lengths")
        first, rest = op.variadic_split(x, ints(1, f"{name}.group_axis"), lengths, name=f"{name}.groups").outputs()
        weight, bias = self.weight(name), self.bias(name)
        parts = [
            self.product(f"{name}{suffix}", self.quantize(gemm, quantizer, rows, suffix), weight, bias)
            for rows, quantizer, suffix in ((first, groups.head, ".head"), (rest, groups.tail, ""))
        ]
        return op.concat(parts, 1, name=f"{name}/joined").output(0)

    def _token_scaled(self, gemm: GemmPlan, quantizer: TokenScaledInput, x: ov.Output) -> ov.Output:
        """Quantizer and MatMul over the tokens divided by their abs-max; times the abs-max again, then the bias."""
        name = gemm.name
        axis = ints([-1], f"{name}.peak_axis")
        least = constant(np.float32(LEAST_PEAK), f"{name}.least_peak")
        largest = op.reduce_max(op.abs(x, name=f"{name}.magnitudes"), axis, True, name=f"{name}.largest")
        peak = op.maximum(largest, least, name=f"{name}.peak")  # (B, N, 1)
        inverse = op.divide(constant(np.float32(1), f"{name}.one"), peak, name=f"{name}.inverse_peak")
        quotient = op.multiply(x, inverse, name=f"{name}.quotient").output(0)
        quotient = self.quantize(gemm, quantizer.quotient, quotient)
        product = op.matmul(quotient, self.weight(name), False, True, name=name)
        product = op.multiply(product, peak, name=f"{name}/scaled")
        return op.add(product, self.bias(name), name=f"{name}/bias").output(0)

    @override
    def patch_embed(self, name: str, pixels: ov.Output) -> ov.Output:
        gemm = self.plan.gemms.get(name)
        return super().patch_embed(name, pixels if gemm is None else self.quantize(gemm, gemm.input, pixels))

    @override
    def attention(self, name: str, q: ov.Output, k: ov.Output, v: ov.Output) -> ov.Output:
        """Integer products with scales per head: uint8 numerators exp(s - max), divided by their own sum afterwards."""
        matmul = self.plan.matmuls.get(name)
        if matmul is None:
            return super().attention(name, q, k, v)
        q = symmetric_integers(f"{name}.q", q, matmul.query_scale)
        k = symmetric_integers(f"{name}.k", k, matmul.key_scale)
        v = symmetric_integers(f"{name}.v", v, matmul.value_scale)
        logit_scale = per_head(f"{name}.logit_scale", matmul.query_scale * matmul.key_scale * self.scale(name))
        logits = op.matmul(q, k, False, True, name=f"{name}.logits")  # (B, H, N, N)
        logits = op.multiply(logits, logit_scale, name=f"{name}.logits/scaled").output(0)
        axis = ints([-1], f"{name}.axis")
        shifted = op.subtract(logits, op.reduce_max(logits, axis, True, name=f"{name}.max"), name=f"{name}.shifted")
        numerators = op.exp(shifted, name=f"{name}.numerators")
        most = self.config.tokens(*(self.sides[1:] * 2 if self.sides else self.plan.image_size))
        offsets = constant(dither(most, matmul.probability_scale), f"{name}.dither")
        if self.sides:
            offsets = first_columns(f"{name}.dither", offsets, logits)
        numerators = op.add(numerators, offsets, name=f"{name}.dithered").output(0)
        high = constant(np.float32((LEVELS - 1) * matmul.probability_scale), f"{name}.p_high")
        ends = [constant(np.float32(0), f"{name}.p_low"), high]
        numerators = op.fake_quantize(numerators, *ends, *ends, LEVELS, name=f"{name}.p{QUANTIZER}").output(0)
        mixed = op.matmul(numerators, v, False, False, name=f"{name}.weighted")  # (B, H, N, d)
        mixed = op.multiply(mixed, per_head(f"{name}.value_scale", matmul.value_scale), name=f"{name}.weighted/scaled")
        total = op.reduce_sum(numerators, axis, True, name=f"{name}.sum")
        return op.divide(mixed, total, name=f"{name}.mixed").output(0)

    def quantize(self, gemm: GemmPlan, quantizer: object, x: ov.Output, suffix: str = "") -> ov.Output:
        """`x` through a FakeQuantize of 256 levels.

        Raises:
            ExportError: the quantizer is not a static one.
        """
        if not isinstance(quantizer, StaticInput):
            kind = getattr(quantizer, "kind", type(quantizer).__name__)
            raise ExportError(
                f"{gemm.name} has a {kind} input quantizer, which standard OpenVINO cannot express here",
                fix="quantize with static ranges, or export the fused variant",
            )
        name = f"{gemm.name}{suffix}"
        return fake_quantize(x, quantizer, f"{name}{QUANTIZER}", (f"{name}.input_low", f"{name}.input_high"))

    @override
    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        return gemm.bias


def integer_weight(gemm: GemmPlan, shape: tuple[int, ...]) -> ov.Output:
    """A plan's integer weights, dequantized in the graph: float32 of `shape`, whose first axis is output channels."""
    name, groups = gemm.name, gemm.weight_scale.shape[1]
    stored = shape if groups == 1 else (shape[0], groups, gemm.group_size)
    scale = gemm.weight_scale.reshape(shape[0], groups, *[1] * (len(stored) - 2))
    weight = dequantized(gemm.weight.reshape(stored), constant(scale, f"{name}.weight_scale"), f"{name}.weight")
    if groups == 1:
        return weight
    return op.reshape(weight, ints(list(shape), f"{name}.weight_shape"), False, name=f"{name}.weight/joined").output(0)


def first_columns(name: str, row: ov.Output, like: ov.Output) -> ov.Output:
    """The first numbers of a row, as many as `like` (B, H, N, columns) has columns."""
    shape = op.shape_of(like, name=f"{name}.shape")
    count = op.gather(shape, ints([3], f"{name}.count_index"), ints(0, f"{name}.count_axis"), name=f"{name}.count")
    start, step = ints([0], f"{name}.start"), ints([1], f"{name}.step")
    return op.slice(row, start, count, step, name=f"{name}.first").output(0)


def symmetric_integers(name: str, x: ov.Output, scale: np.ndarray) -> ov.Output:
    """Round x / scale (B, H, N, d) to integers -127..127, still as floats; `scale` (H,) is per attention head.

    Divided by the scale first: the low-precision pass takes a quantizer with one range for all heads only.
    """
    x = op.divide(x, per_head(f"{name}.scale", scale), name=f"{name}/divided").output(0)
    ends = [constant(np.float32(side * (LEVELS // 2 - 1)), f"{name}.{end}") for side, end in ((-1, "low"), (1, "high"))]
    return op.fake_quantize(x, *ends, *ends, LEVELS - 1, name=f"{name}{QUANTIZER}").output(0)


def per_head(name: str, scale: np.ndarray) -> ov.Output:
    """Scale (H,) per attention head as a constant (1, H, 1, 1)."""
    return constant(scale.astype(np.float32).reshape(1, -1, 1, 1), name)
