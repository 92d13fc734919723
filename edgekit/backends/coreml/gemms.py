"""How weights stand in a MIL program: floats, or the plan's integers with their scales and input quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from edgekit.backends.coreml.emitter import Target, Var, mil_name
from edgekit.errors import ExportError
from edgekit.plan.quant import LEAST_PEAK, GemmPlan, StaticInput, TokenGroupInput, TokenScaledInput

if TYPE_CHECKING:
    from edgekit.plan.quant import QuantPlan

SHIFT = 128  # the plan's uint8 is Core ML's int8 plus this


class FloatGemms:
    """Every product in float, weights and biases straight from the model's tensors."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], gains: Mapping[str, np.ndarray], dtype: type[np.floating[Any]]
    ) -> None:
        """`gains`: factors (out,) of the rows of some GEMMs; see `coreml_graph.row_gains`."""
        self.tensors, self.gains, self.dtype = tensors, gains, dtype

    def linear(self, name: str, x: Var) -> Var:
        """One `linear`."""
        return mb.linear(x=x, weight=self.weight(name), bias=self.bias(name), name=mil_name(name))

    def convolution(self, name: str, pixels: Var, patch: int) -> Var:
        """One `conv`, kernel and stride of one patch."""
        return mb.conv(
            x=pixels,
            weight=self.weight(name),
            bias=self.bias(name),
            strides=[patch, patch],
            pad_type="valid",
            name=mil_name(name),
        )

    def weight(self, name: str) -> Any:
        """(out, in), or (D, 3, patch, patch) of the patch embedding."""
        value = self.tensors[f"{name}.weight"]
        return self.number(value * self.gain(name).reshape(-1, *[1] * (value.ndim - 1)), f"{name}.weight")

    def bias(self, name: str) -> np.ndarray:
        """(out,)."""
        return self.number(self.tensors[f"{name}.bias"] * self.gain(name), f"{name}.bias")

    def gain(self, name: str) -> np.ndarray:
        """Factor of each row: (out,), or (1,)."""
        return self.gains.get(name, np.ones(1, np.float32))

    def number(self, value: np.ndarray, what: str) -> np.ndarray:
        """`value` in the program's number type.

        Raises:
            ExportError: it is beyond what float16 holds.
        """
        if np.abs(value).max() > np.finfo(self.dtype).max:
            raise ExportError(f"{what} holds {np.abs(value).max():.3g}, which float16 cannot", fix="--precision fp32")
        return np.ascontiguousarray(value, self.dtype)


class WeightGemms(FloatGemms):
    """w8, w4: the plan's integers in the file, widened by the runtime; inputs stay float16.

    The bias is the uncorrected one, since the corrected one repairs an activation error that does not occur here.
    """

    def __init__(self, plan: QuantPlan, gains: Mapping[str, np.ndarray], target: Target) -> None:
        super().__init__(plan.float_tensors, gains, np.float16)
        self.plan, self.target = plan, target

    def weight(self, name: str) -> Any:
        """The plan's integers with their scales; float where the plan keeps the GEMM float."""
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().weight(name)
        scale = weight_scale(gemm, self.gain(name))
        shape = self.tensors[f"{name}.weight"].shape
        own = f"{mil_name(name)}_weight"
        if self.target == "iOS18":
            integers = gemm.weight.astype(types.np_int4_dtype) if gemm.weight_bits == 4 else gemm.weight
            if len(shape) > 2 and scale.shape[1] > 1:
                raise ExportError(
                    f"{name} has several scales per output channel", why="its weights are a convolution's"
                )
            groups = (*scale.shape, *[1] * (len(shape) - 2))
            zero = (
                {} if gemm.weight_zero is None else {"offset": gemm.weight_zero.astype(integers.dtype).reshape(groups)}
            )
            return mb.constexpr_blockwise_shift_scale(
                data=integers.reshape(shape), scale=scale.reshape(groups), **zero, name=own
            )
        if scale.shape[1] > 1 or gemm.weight_bits == 4:
            raise ExportError(
                f"{name} has {gemm.weight_bits}-bit weights in groups",
                why="iOS 17 has none",
                fix="target iOS18, or --precision w8a8",
            )
        return mb.constexpr_affine_dequantize(
            quantized_data=gemm.weight.reshape(shape),
            zero_point=np.int8(0),
            scale=scale[:, 0],
            axis=np.int32(0),
            name=own,
        )

    def bias(self, name: str) -> np.ndarray:
        """The plan's uncorrected bias."""
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().bias(name)
        return self.number(self.planned_bias(gemm) * self.gain(name), f"{name}.bias")

    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        """The bias that belongs to float inputs."""
        return gemm.bias_dynamic


class StaticGemms(WeightGemms):
    """w8a8, w4a8: int8 `quantize` and `dequantize` with the plan's numbers in front of integer weights.

    What Core ML's compiler takes for an int8 product (iPhone 15 Pro and later), and what others compute in float16.
    """

    def linear(self, name: str, x: Var) -> Var:
        """Quantizer and product; with token groups two quantizers, joined again before the product."""
        gemm = self.plan.gemms.get(name)
        if gemm is not None and isinstance(gemm.input, TokenScaledInput):
            return self.token_scaled(gemm, gemm.input, x)
        return super().linear(name, x if gemm is None else self.quantized(gemm, x))

    def token_scaled(self, gemm: GemmPlan, quantizer: TokenScaledInput, x: Var) -> Var:
        """Quantizer and product over the tokens divided by their peaks; behind it the peaks again, then the bias."""
        own = mil_name(gemm.name)
        sizes = mb.abs(x=x, name=f"{own}_sizes")
        largest = mb.reduce_max(x=sizes, axes=[-1], keep_dims=True, name=f"{own}_largest")
        peak = mb.maximum(x=largest, y=self.dtype(LEAST_PEAK), name=f"{own}_peak")
        quotient = mb.real_div(x=x, y=peak, name=f"{own}_quotient")
        product = mb.linear(x=rounded(own, quotient, quantizer.quotient), weight=self.weight(gemm.name), name=own)
        product = mb.mul(x=product, y=peak, name=f"{own}_scaled")
        return mb.add(x=product, y=self.bias(gemm.name), name=f"{own}_bias")

    def convolution(self, name: str, pixels: Var, patch: int) -> Var:
        """Quantizer and convolution."""
        gemm = self.plan.gemms.get(name)
        return super().convolution(name, pixels if gemm is None else self.quantized(gemm, pixels), patch)

    def quantized(self, gemm: GemmPlan, x: Var) -> Var:
        """`x` rounded to what the plan's quantizer can hold.

        Raises:
            ExportError: the quantizer is not a static one.
        """
        own = mil_name(gemm.name)
        match gemm.input:
            case StaticInput():
                return rounded(own, x, gemm.input)
            case TokenGroupInput(split, head, tail):
                groups = mb.split(x=x, split_sizes=[split, x.shape[1] - split], axis=1, name=f"{own}_groups")
                ranges = {"head": head, "tail": tail}
                parts = [rounded(f"{own}_{p}", g, q) for g, (p, q) in zip(groups, ranges.items(), strict=True)]
                return mb.concat(values=parts, axis=1, name=f"{own}_joined")
            case _:
                raise ExportError(
                    f"{gemm.name} has a {gemm.input.kind} input quantizer",
                    why="Core ML's are static",
                    fix="quantize with static ranges, or --precision w8",
                )

    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        """The bias that belongs to the static input quantizer."""
        return gemm.bias


def rounded(name: str, x: Var, quantizer: StaticInput) -> Var:
    """`quantize` to int8 and `dequantize`: the values of the plan's uint8 quantizer, whose integers are 128 higher."""
    scale, zero_point = np.float16(quantizer.scale), np.int8(quantizer.zero_point - SHIFT)
    q = mb.quantize(input=x, scale=scale, zero_point=zero_point, output_dtype="int8", name=f"{name}_input_q")
    return mb.dequantize(input=q, scale=scale, zero_point=zero_point, name=f"{name}_input")


def weight_scale(gemm: GemmPlan, gain: np.ndarray) -> np.ndarray:
    """Float16 scales (out, groups) as they stand in the file: the plan's, times the row's gain."""
    return np.ascontiguousarray(gemm.weight_scale * gain[:, None], np.float16)
