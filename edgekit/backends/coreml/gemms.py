"""Matrix products in MIL: float, integer weights, or quantizers in front of integer weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from typing_extensions import override

from edgekit.backends.coreml.builder import ProgramOptions, Target, Var, fake_quantize, mil_name
from edgekit.errors import ExportError
from edgekit.graph.backbone import PATCH_EMBED
from edgekit.graph.emitter import Tensors
from edgekit.graph.gemms import GemmStrategy
from edgekit.plan.quant import LEAST_PEAK, GemmPlan, StaticInput, TokenGroupInput, TokenScaledInput

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig
    from edgekit.plan.quant import QuantPlan

Gains = Mapping[str, np.ndarray]  # module path of a GEMM -> factors (out,) of its rows; see `row_gains`


def row_gains(
    config: ViTConfig, tensors: Tensors, target: Target, normalize: Literal["host", "graph"] = "host"
) -> dict[str, np.ndarray]:
    """Factors (out,) of the rows of some GEMMs, powers of two in official models, which no number type rounds.

    Queries: so that attention needs no scale of its own; MIL's fused attention divides by sqrt(d) always, d = 64.
    Patch embedding of a model that takes RGB 0..255: its weights are 57 times smaller than usual and their scales would
    leave float16's normal numbers; `FloatGemms.patch_embed` divides by the same factor afterwards.
    """
    divides = math.sqrt(config.head_dim) if target == "iOS18" else 1.0
    gains = {PATCH_EMBED: np.full(config.width, 64, np.float32)} if normalize == "graph" else {}
    for i in range(config.depth):
        gain = np.ones(3 * config.width, np.float32)
        gain[: config.width] = np.float32(tensors[f"blocks.{i}.attn.scale"].item() * divides)
        gains[f"blocks.{i}.attn.qkv"] = gain
    return gains


class FloatGemms(GemmStrategy[Var]):
    """Every product in float, weights and biases straight from the model's tensors."""

    def __init__(self, config: ViTConfig, tensors: Tensors, gains: Gains, options: ProgramOptions) -> None:
        """`gains` are those of `row_gains`: attention is written as if q were scaled already."""
        self.config, self.tensors, self.gains, self.options = config, tensors, gains, options

    @override
    def linear(self, name: str, x: Var) -> Var:
        return mb.linear(x=x, weight=self.weight(name), bias=self.bias(name), name=mil_name(name))

    @override
    def patch_embed(self, name: str, pixels: Var) -> Var:
        x = mb.conv(
            x=pixels,
            weight=self.weight(name),
            bias=self.bias(name),
            strides=[self.config.patch] * 2,
            pad_type="valid",
            name=mil_name(name),
        )  # (B, D, rows, columns)
        if name in self.gains:
            x = mb.mul(x=x, y=self.options.dtype(1 / self.gains[name][0]), name="patch_embed_restored")
        rows, columns = self.config.grid
        x = mb.reshape(x=x, shape=[self.options.batch, self.config.width, rows * columns], name="patch_embed_flat")
        return mb.transpose(x=x, perm=[0, 2, 1], name="patch_embed_tokens")

    @override
    def attention(self, name: str, q: Var, k: Var, v: Var) -> Var:
        name = mil_name(name)
        if self.options.target == "iOS18":
            return mb.scaled_dot_product_attention(query=q, key=k, value=v, name=f"{name}_sdpa")
        logits = mb.matmul(x=q, y=k, transpose_y=True, name=f"{name}_logits")  # (B, H, N, N)
        probabilities = mb.softmax(x=logits, axis=-1, name=f"{name}_probabilities")
        return mb.matmul(x=probabilities, y=v, name=f"{name}_weighted")  # (B, H, N, d)

    def weight(self, name: str) -> Any:
        """Weight as a constant: (out, in), or (D, 3, patch, patch) of the patch embedding."""
        value = self.tensors[f"{name}.weight"]
        return self.number(value * self.gain(name).reshape(-1, *[1] * (value.ndim - 1)), f"{name}.weight")

    def bias(self, name: str) -> np.ndarray:
        """Bias (out,) in the program's number type."""
        return self.number(self.tensors[f"{name}.bias"] * self.gain(name), f"{name}.bias")

    def gain(self, name: str) -> np.ndarray:
        """Factor of each row: (out,), or (1,)."""
        return self.gains.get(name, np.ones(1, np.float32))

    def number(self, value: np.ndarray, what: str) -> np.ndarray:
        """`value` in the program's number type.

        Raises:
            ExportError: it is beyond what float16 holds.
        """
        if np.abs(value).max() > np.finfo(self.options.dtype).max:
            raise ExportError(f"{what} holds {np.abs(value).max():.3g}, which float16 cannot", fix="--precision fp32")
        return self.options.number(value)


class WeightGemms(FloatGemms):
    """w8, w4: the plan's integers in the file, dequantized by the runtime; inputs stay float16.

    The bias is the uncorrected one, since the corrected one repairs an activation error that does not occur here.
    """

    def __init__(self, plan: QuantPlan, gains: Gains, options: ProgramOptions) -> None:
        super().__init__(plan.config, plan.float_tensors, gains, options)
        self.plan = plan

    @override
    def weight(self, name: str) -> Any:
        gemm = self.plan.gemms.get(name)  # None where the plan keeps it float
        if gemm is None:
            return super().weight(name)
        scale, shape = weight_scale(gemm, self.gain(name)), self.tensors[f"{name}.weight"].shape
        if self.options.target == "iOS18":
            return _blockwise(gemm, scale, shape)
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
            name=f"{mil_name(name)}_weight",
        )

    @override
    def bias(self, name: str) -> np.ndarray:
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().bias(name)
        return self.number(self.planned_bias(gemm) * self.gain(name), f"{name}.bias")

    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        """The plan's bias (out,) for the inputs that this strategy gives the GEMM."""
        return gemm.bias_dynamic


class StaticGemms(WeightGemms):
    """w8a8, w4a8: int8 `quantize` and `dequantize` with the plan's numbers in front of integer weights.

    What Core ML's compiler takes for an int8 product (iPhone 15 Pro and later), and what others compute in float16.
    """

    @override
    def linear(self, name: str, x: Var) -> Var:
        gemm = self.plan.gemms.get(name)
        if gemm is not None and isinstance(gemm.input, TokenScaledInput):
            return self._token_scaled(gemm, gemm.input, x)
        return super().linear(name, x if gemm is None else self.quantize(gemm, x))

    def _token_scaled(self, gemm: GemmPlan, quantizer: TokenScaledInput, x: Var) -> Var:
        """Quantizer and product over the tokens divided by their abs-max; times the abs-max again, then the bias."""
        name = mil_name(gemm.name)
        magnitudes = mb.abs(x=x, name=f"{name}_abs")
        largest = mb.reduce_max(x=magnitudes, axes=[-1], keep_dims=True, name=f"{name}_largest")
        peak = mb.maximum(x=largest, y=self.options.dtype(LEAST_PEAK), name=f"{name}_peak")  # (B, N, 1)
        quotient = fake_quantize(f"{name}_input", mb.real_div(x=x, y=peak, name=f"{name}_quotient"), quantizer.quotient)
        product = mb.linear(x=quotient, weight=self.weight(gemm.name), name=name)
        product = mb.mul(x=product, y=peak, name=f"{name}_scaled")
        return mb.add(x=product, y=self.bias(gemm.name), name=f"{name}_bias")

    @override
    def patch_embed(self, name: str, pixels: Var) -> Var:
        gemm = self.plan.gemms.get(name)
        return super().patch_embed(name, pixels if gemm is None else self.quantize(gemm, pixels))

    def quantize(self, gemm: GemmPlan, x: Var) -> Var:
        """`x` through the plan's quantizer; with token groups through two, joined again.

        Raises:
            ExportError: the quantizer is not a static one.
        """
        name = mil_name(gemm.name)
        match gemm.input:
            case StaticInput():
                return fake_quantize(f"{name}_input", x, gemm.input)
            case TokenGroupInput(split, head, tail):
                first, rest = mb.split(x=x, split_sizes=[split, x.shape[1] - split], axis=1, name=f"{name}_groups")
                groups = ("head", first, head), ("tail", rest, tail)
                parts = [fake_quantize(f"{name}_{part}_input", rows, q) for part, rows, q in groups]
                return mb.concat(values=parts, axis=1, name=f"{name}_joined")
            case _:
                raise ExportError(
                    f"{gemm.name} has a {gemm.input.kind} input quantizer",
                    why="Core ML's are static",
                    fix="quantize with static ranges, or --precision w8",
                )

    @override
    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        return gemm.bias


def weight_scale(gemm: GemmPlan, gain: np.ndarray) -> np.ndarray:
    """Float16 scales (out, groups) as they stand in the file: the plan's, times the row's gain."""
    return np.ascontiguousarray(gemm.weight_scale * gain[:, None], np.float16)


def _blockwise(gemm: GemmPlan, scale: np.ndarray, shape: tuple[int, ...]) -> Any:
    """The integer weights of a GEMM in iOS 18's form: with a scale, and perhaps a zero point, per group of inputs.

    Raises:
        ExportError: there are groups in the weights of a convolution.
    """
    integers = gemm.weight.astype(types.np_int4_dtype) if gemm.weight_bits == 4 else gemm.weight
    if len(shape) > 2 and scale.shape[1] > 1:
        raise ExportError(f"{gemm.name} has several scales per output channel", why="its weights are a convolution's")
    groups = (*scale.shape, *[1] * (len(shape) - 2))
    zero_point = gemm.weight_zero_point
    offset = {} if zero_point is None else {"offset": zero_point.astype(integers.dtype).reshape(groups)}
    return mb.constexpr_blockwise_shift_scale(
        data=integers.reshape(shape), scale=scale.reshape(groups), **offset, name=f"{mil_name(gemm.name)}_weight"
    )
