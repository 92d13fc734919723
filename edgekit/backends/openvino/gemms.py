"""How a QuantPlan stands in an OpenVINO graph: integer constants with their scales, and FakeQuantize at GEMM inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from openvino import opset13 as op

from edgekit.backends.openvino.emitter import FloatGemms, constant
from edgekit.errors import ExportError
from edgekit.plan.quant import LEAST_PEAK, GemmPlan, StaticInput, TokenGroupInput, TokenScaledInput, dither

if TYPE_CHECKING:
    from edgekit.plan.quant import QuantPlan

LEVELS = 256
QUANTIZER = "/quantized"  # friendly name of a GEMM's FakeQuantize: the GEMM's name and this


class WeightGemms(FloatGemms):
    """w8: int8 constants -> Convert -> Multiply by the scale; activations and arithmetic stay float.

    The runtime keeps the integers in memory and dequantizes inside the GEMM. The bias is the uncorrected one, since
    the corrected one repairs an activation error that does not occur here.
    """

    def __init__(self, plan: QuantPlan) -> None:
        super().__init__(plan.float_tensors)
        self.plan = plan

    def weight(self, name: str) -> ov.Output:
        """The plan's integers with their dequantization; float where the plan keeps the GEMM float."""
        gemm = self.plan.gemms.get(name)
        return super().weight(name) if gemm is None else integer_weight(gemm, self.tensors[f"{name}.weight"].shape)

    def bias(self, name: str, shape: tuple[int, ...] = (1, 1, -1)) -> ov.Output:
        """The plan's uncorrected bias."""
        gemm = self.plan.gemms.get(name)
        return super().bias(name, shape) if gemm is None else self.planned_bias(gemm, shape)

    def planned_bias(self, gemm: GemmPlan, shape: tuple[int, ...]) -> ov.Output:
        """The bias that belongs to float inputs."""
        return constant(gemm.bias_dynamic.reshape(shape), f"{gemm.name}.bias")


class IntegerGemms(WeightGemms):
    """w8a8: a FakeQuantize whose ranges are the plan's scale and zero point in front of integer weights.

    The CPU plugin's low-precision pass turns each pair into one int8 GEMM. Attention products stay float unless the
    plan has scales for them (level "all").
    """

    def linear(self, name: str, x: ov.Output) -> ov.Output:
        """Quantizer, MatMul, Add; with token groups two of them over the same integers, joined again."""
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().linear(name, x)
        if isinstance(gemm.input, TokenScaledInput):
            return self.token_scaled(gemm, gemm.input, x)
        if not isinstance(gemm.input, TokenGroupInput):
            return super().linear(name, self.quantized(gemm, gemm.input, x))
        # Ranges per row in one FakeQuantize would be shorter, but the low-precision pass (2026.4) throws on
        # zero points that differ between rows.
        tokens = self.plan.config.tokens(*self.plan.image_size)
        sizes = constant(np.array([gemm.input.split, tokens - gemm.input.split], np.int64), f"{name}.group_lengths")
        axis = constant(np.int64(1), f"{name}.group_axis")
        groups = op.variadic_split(x, axis, sizes, name=f"{name}.groups").outputs()
        weight, bias = self.weight(name), self.bias(name)
        halves = [
            self.product(f"{name}{suffix}", self.quantized(gemm, quantizer, group, suffix), weight, bias)
            for group, quantizer, suffix in zip(groups, (gemm.input.head, gemm.input.tail), (".head", ""), strict=True)
        ]
        return op.concat(halves, 1, name=f"{name}/joined").output(0)

    def token_scaled(self, gemm: GemmPlan, quantizer: TokenScaledInput, x: ov.Output) -> ov.Output:
        """Quantizer and MatMul over the tokens divided by their peaks; behind it the peaks again, then the bias."""
        name = gemm.name
        axis = constant(np.array([-1], np.int64), f"{name}.peak_axis")
        least = constant(np.float32(LEAST_PEAK), f"{name}.least_peak")
        largest = op.reduce_max(op.abs(x, name=f"{name}.magnitudes"), axis, True, name=f"{name}.largest")
        peak = op.maximum(largest, least, name=f"{name}.peak")
        inverse = op.divide(constant(np.float32(1), f"{name}.one"), peak, name=f"{name}.inverse_peak")
        quotient = op.multiply(x, inverse, name=f"{name}.quotient").output(0)
        rounded = self.quantized(gemm, quantizer.quotient, quotient)
        product = op.matmul(rounded, self.weight(name), False, True, name=name)
        product = op.multiply(product, peak, name=f"{name}/scaled")
        return op.add(product, self.bias(name), name=f"{name}/bias").output(0)

    def convolution(self, name: str, pixels: ov.Output, patch: int) -> ov.Output:
        """Quantizer, Convolution, Add."""
        gemm = self.plan.gemms.get(name)
        return super().convolution(name, pixels if gemm is None else self.quantized(gemm, gemm.input, pixels), patch)

    def attention(self, name: str, q: ov.Output, k: ov.Output, v: ov.Output, scale: float) -> ov.Output:
        """Integer products with scales per head: uint8 numerators exp(s - max), divided by their own sum afterwards."""
        matmul = self.plan.matmuls.get(name)
        if matmul is None:
            return super().attention(name, q, k, v, scale)
        q = integers(f"{name}.q", q, matmul.query_scale)
        k = integers(f"{name}.k", k, matmul.key_scale)
        v = integers(f"{name}.v", v, matmul.value_scale)
        logit_scale = per_head(f"{name}.logit_scale", matmul.query_scale * matmul.key_scale * np.float32(scale))
        logits = op.matmul(q, k, False, True, name=f"{name}.logits")  # (B, H, N, N)
        logits = op.multiply(logits, logit_scale, name=f"{name}.logits/scaled").output(0)
        axis = constant(np.array([-1], np.int64), f"{name}.axis")
        shifted = op.subtract(logits, op.reduce_max(logits, axis, True, name=f"{name}.max"), name=f"{name}.shifted")
        numerators = op.exp(shifted, name=f"{name}.numerators")
        offsets = dither(self.plan.config.tokens(*self.plan.image_size), matmul.probability_scale)
        numerators = op.add(numerators, constant(offsets, f"{name}.dither"), name=f"{name}.dithered").output(0)
        top = constant(np.float32((LEVELS - 1) * matmul.probability_scale), f"{name}.p_high")
        ends = [constant(np.float32(0), f"{name}.p_low"), top]
        rounded = op.fake_quantize(numerators, *ends, *ends, LEVELS, name=f"{name}.p{QUANTIZER}").output(0)
        mixed = op.matmul(rounded, v, False, False, name=f"{name}.weighted")
        mixed = op.multiply(mixed, per_head(f"{name}.value_scale", matmul.value_scale), name=f"{name}.weighted/scaled")
        return op.divide(mixed, op.reduce_sum(rounded, axis, True, name=f"{name}.sum"), name=f"{name}.mixed").output(0)

    def quantized(self, gemm: GemmPlan, quantizer: object, x: ov.Output, suffix: str = "") -> ov.Output:
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
        low, high = quantizer.ends
        ends = [constant(value, f"{gemm.name}{suffix}.input_{end}") for value, end in ((low, "low"), (high, "high"))]
        return op.fake_quantize(x, *ends, *ends, LEVELS, name=f"{gemm.name}{suffix}{QUANTIZER}").output(0)

    def planned_bias(self, gemm: GemmPlan, shape: tuple[int, ...]) -> ov.Output:
        """The bias that belongs to the static input quantizer."""
        return constant(gemm.bias.reshape(shape), f"{gemm.name}.bias")


def integer_weight(gemm: GemmPlan, shape: tuple[int, ...]) -> ov.Output:
    """int8 constant -> Convert -> Multiply(scale): float32 of `shape`, whose first axis is the output channel."""
    name, groups = gemm.name, gemm.weight_scale.shape[1]
    stored = shape if groups == 1 else (shape[0], groups, gemm.group_size)
    integers = op.convert(constant(gemm.weight.reshape(stored), f"{name}.weight"), "f32", name=f"{name}.weight/float")
    scale = gemm.weight_scale.reshape(shape[0], groups, *[1] * (len(stored) - 2))
    weight = op.multiply(integers, constant(scale, f"{name}.weight_scale"), name=f"{name}.weight/scaled").output(0)
    if groups == 1:
        return weight
    target = constant(np.array(shape, np.int64), f"{name}.weight_shape")
    return op.reshape(weight, target, False, name=f"{name}.weight/joined").output(0)


def integers(name: str, x: ov.Output, scale: np.ndarray) -> ov.Output:
    """(B, H, N, d) -> the integers -127..127 it rounds to at a scale per head (H,).

    Divided by the scale first: the low-precision pass takes a quantizer with one range for all heads only.
    """
    x = op.divide(x, per_head(f"{name}.scale", scale), name=f"{name}/divided").output(0)
    ends = [constant(np.float32(side * (LEVELS // 2 - 1)), f"{name}.{end}") for side, end in ((-1, "low"), (1, "high"))]
    return op.fake_quantize(x, *ends, *ends, LEVELS - 1, name=f"{name}{QUANTIZER}").output(0)


def per_head(name: str, scale: np.ndarray) -> ov.Output:
    """(H,) as (1, H, 1, 1) constant."""
    return constant(scale.astype(np.float32).reshape(1, -1, 1, 1), name)
