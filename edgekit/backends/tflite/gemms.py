"""Weight GEMMs and attention of a TFLite graph: in float32, from float16 weights, or with a plan's integers.

**How a kernel that takes ranges at run time is made to use the plan's.** The fast int8 GEMM of LiteRT is the hybrid
FULLY_CONNECTED (XNNPACK's qd8_f32_qc8w): it takes float32, finds the minimum and maximum of each row (0 included),
quantizes the row with the scale and zero point of that range, multiplies integers, and gives float32. For an input that
the plan quantizes per token that is right as it is. A `StaticInput` has one range [qmin, qmax] for every token, and no
operator that takes float32 accepts one. So channels are appended to the input x (..., K) that pin its range, and
`pin_range` writes that as three operators:

    PAD               x (..., K) -> (..., K + P), zeros behind the channels
    MAXIMUM, MINIMUM  with bounds per channel: [qmin, qmax] for the K channels, so that no value widens the range;
                      qmin, qmin for the first of the P; qmax, qmax for the second; 0, 0 for the others

Every row then has qmin as its minimum and qmax as its maximum: the scale and zero point that the kernel finds are the
plan's. The weights get P columns of zeros, so the sums are the same. P is 8, which keeps rows aligned, or one more
block where weights are block-quantized (`range_channels`). Of two token groups each is pinned to its own range.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from typing_extensions import override

from edgekit.backends.tflite.builder import OperatorBuilder, channels_last, dequantized
from edgekit.backends.tflite.flatbuffer import Graph, Quantization, Value
from edgekit.errors import ExportError
from edgekit.graph.emitter import Tensors
from edgekit.graph.gemms import GemmStrategy
from edgekit.models.config import ViTConfig
from edgekit.plan.quant import (
    FloatInput,
    GemmPlan,
    PerTokenInput,
    QuantPlan,
    StaticInput,
    TokenGroupInput,
    TokenScaledInput,
)

_RANGE_CHANNELS = 8  # appended to a static input: qmin, qmax and 6 zeros; rows stay aligned
_BLOCK = 32  # XNNPACK's blocks of 4-bit weights hold a multiple of this


class FloatGemms(GemmStrategy[Value]):
    """Every product in float32, weights and biases straight from the model's tensors."""

    def __init__(self, builder: OperatorBuilder, config: ViTConfig, tensors: Tensors) -> None:
        self.builder, self.graph, self.config, self.tensors = builder, builder.graph, config, tensors

    @override
    def linear(self, name: str, x: Value) -> Value:
        return self.builder.fully_connected(name, [x, self.weight(name), self.bias(name)])

    @override
    def patch_embed(self, name: str, pixels: Value) -> Value:
        x = self.builder.patch_conv(name, [pixels, self.weight(name), self.bias(name)])
        return self.builder.flatten(f"{name}.tokens", x)

    @override
    def attention(self, name: str, q: Value, k: Value, v: Value) -> Value:
        """BATCH_MATMUL, SOFTMAX, BATCH_MATMUL; the scale multiplies q unless it is folded away."""
        return self.builder.attention(name, q, k, v, self.tensors[f"{name}.scale"].item())

    def weight(self, name: str) -> Value:
        """Weight as a constant: (out, in), or (D, patch, patch, 3) of the patch embedding."""
        return self.graph.constant(f"{name}.weight", channels_last(self.tensors[f"{name}.weight"]))

    def bias(self, name: str) -> Value:
        """Bias (out,) in float32."""
        return self.graph.constant(f"{name}.bias", self.tensors[f"{name}.bias"])


class Float16Gemms(FloatGemms):
    """fp16: weights are stored in float16 and dequantized when the file is loaded; arithmetic stays float32."""

    @override
    def weight(self, name: str) -> Value:
        """float16 constant -> DEQUANTIZE.

        Raises:
            ExportError: a weight is beyond what float16 holds.
        """
        full = channels_last(self.tensors[f"{name}.weight"])
        if np.abs(full).max() > np.finfo(np.float16).max:
            raise ExportError(
                f"{name}.weight holds {np.abs(full).max():.3g}, which float16 cannot", fix="--precision fp32"
            )
        stored = self.graph.constant(f"{name}.weight", full.astype(np.float16))
        return dequantized(self.graph, f"{name}.weight", stored, version=3)


class WeightGemms(FloatGemms):
    """w8: the plan's int8 weights, float inputs.

    The bias is the uncorrected one, since the corrected one repairs an activation error that does not occur here.
    """

    def __init__(self, builder: OperatorBuilder, plan: QuantPlan) -> None:
        super().__init__(builder, plan.config, plan.float_tensors)
        self.plan = plan

    @override
    def weight(self, name: str) -> Value:
        """The plan's integers -> DEQUANTIZE; float where the plan keeps the GEMM float."""
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().weight(name)
        return dequantized(self.graph, f"{name}.weight", self.integers(gemm), version=5)

    def integers(self, gemm: GemmPlan, *, columns: int | None = None) -> Value:
        """int8 constant with a scale per output channel, or INT4 in blocks, in the layout of the operator.

        Args:
            gemm: of the plan.
            columns: (out, columns) in any case, zeros behind the weights; None keeps the convolution's four axes.

        Raises:
            ExportError: the plan's scales belong to groups of input channels.
        """
        groups = gemm.weight_scale.shape[1]
        if gemm.weight_zero_point is not None:
            raise ExportError(
                f"{gemm.name} has 4-bit weights with zero points",
                why="TFLite's blocks have none",
                fix="a recipe with quantize.zero_points = false",
            )
        if groups > 1 and columns is not None and gemm.weight_bits == 4 and gemm.group_size % _BLOCK == 0:
            return block_quantized_weight(self.graph, gemm, columns)
        if groups > 1:
            raise ExportError(
                f"{gemm.name} has {groups} weight scales per output channel for {gemm.weight_bits} bits",
                why=f"TFLite takes one, or blocks of {_BLOCK} and 4 bits",
                fix="--precision w4a8, or a recipe without quantize.group_size",
            )
        integers = channels_last(gemm.weight.reshape(self.tensors[f"{gemm.name}.weight"].shape))
        if columns is not None:
            integers = integers.reshape(len(integers), -1)
            integers = np.pad(integers, ((0, 0), (0, columns - integers.shape[1])))
        return self.graph.constant(f"{gemm.name}.weight_q", integers, Quantization(self.stored_scale(gemm)))

    def stored_scale(self, gemm: GemmPlan) -> np.ndarray:
        """Scales stored with the integers: the plan's, (out,)."""
        return gemm.weight_scale[:, 0]

    @override
    def bias(self, name: str) -> Value:
        gemm = self.plan.gemms.get(name)
        return super().bias(name) if gemm is None else self.graph.constant(f"{name}.bias", self.planned_bias(gemm))

    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        """The bias (out,) that belongs to float inputs."""
        return gemm.bias_dynamic


class IntegerGemms(WeightGemms):
    """w8a8, w4a8: integer weights go into the hybrid operator as they are, and it quantizes its input itself.

    Static inputs are pinned to the plan's range (see the top of this file). Output is float32, as in the plan.
    """

    version = (
        12  # of FULLY_CONNECTED: the first with a scale per output channel, so that older runtimes refuse the file
    )

    @override
    def linear(self, name: str, x: Value) -> Value:
        gemm = self.plan.gemms.get(name)
        return super().linear(name, x) if gemm is None else self.hybrid(gemm, x)

    @override
    def patch_embed(self, name: str, pixels: Value) -> Value:
        """The patches as rows of 3 * patch * patch values, so that each gets its own range, and one GEMM."""
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().patch_embed(name, pixels)
        options, (rows, columns) = schema.SpaceToDepthOptionsT(), self.config.grid
        options.blockSize = self.config.patch
        shape = (-1, rows, columns, gemm.weight.shape[1])
        x = self.graph.add("SPACE_TO_DEPTH", f"{name}.rows", [pixels], shape, options=options)
        return self.builder.flatten(f"{name}.tokens", self.hybrid(gemm, x))

    def hybrid(self, gemm: GemmPlan, x: Value) -> Value:
        """FULLY_CONNECTED: float32 in, integer weights, float32 out."""
        x = self.ranged(gemm, x)
        weight = self.integers(gemm, columns=x.shape[-1])
        inputs, shape = [x, weight, self.bias(gemm.name)], (*x.shape[:-1], weight.shape[0])
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = options.asymmetricQuantizeInputs = True
        return self.graph.add("FULLY_CONNECTED", gemm.name, inputs, shape, options=options, version=self.version)

    def ranged(self, gemm: GemmPlan, x: Value) -> Value:
        """`x` (..., K) as it is, or pinned to static ranges: (..., K + range channels).

        Raises:
            ExportError: the plan is one of weights alone.
        """
        channels = range_channels(gemm)
        match gemm.input:
            case StaticInput():
                return pin_range(self.graph, gemm.name, x, gemm.input, channels)
            case PerTokenInput() | TokenScaledInput():
                return x
            case TokenGroupInput(split, head, tail):
                bounds = {"head": (0, split, head), "tail": (split, x.shape[1], tail)}
                parts = []
                for group, (first, end, quantizer) in bounds.items():
                    name = f"{gemm.name}.{group}"
                    part = self.builder.tokens(name, x, first, end)
                    parts.append(pin_range(self.graph, name, part, quantizer, channels))
                options = schema.ConcatenationOptionsT()
                options.axis = 1
                shape = (*x.shape[:-1], parts[0].shape[-1])
                return self.graph.add("CONCATENATION", f"{gemm.name}.joined", parts, shape, options=options)
            case FloatInput():
                raise ExportError(
                    f"the plan leaves the input of {gemm.name} float",
                    why="it is one of weights alone",
                    fix="--precision w8",
                )

    @override
    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        """The bias (out,) that belongs to the input quantizer."""
        return as_hybrid(gemm).bias


class PortableGemms(IntegerGemms):
    """w8a8 that tflite-runtime computes rightly as well: its kernel reads one weight scale and would skip the rest.

    The file therefore stores a scale of 1: the operator gives sums of integers times the input scale, and a MUL behind
    it applies the plan's scale per output channel.
    """

    version = 9  # of FULLY_CONNECTED: the first with a zero point of the input

    @override
    def hybrid(self, gemm: GemmPlan, x: Value) -> Value:
        """FULLY_CONNECTED and MUL."""
        sums = super().hybrid(gemm, x)
        scale = self.graph.constant(f"{gemm.name}.weight_scale", gemm.weight_scale[:, 0])
        return self.builder.mul(f"{gemm.name}/scaled", sums, scale)

    @override
    def stored_scale(self, gemm: GemmPlan) -> np.ndarray:
        """Scale stored in the file: 1.0; the MUL behind the operator applies the real one."""
        return np.ones(1, np.float32)

    @override
    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        return unscaled_bias(gemm)


def as_hybrid(gemm: GemmPlan) -> GemmPlan:
    """The GEMM as the hybrid operator computes it: per-token ranges instead of `TokenScaledInput`, uncorrected bias.

    The operator takes the range of each token anyway, and that is the finer quantizer: nothing has to be divided by the
    token's peak and multiplied back.
    """
    if not isinstance(gemm.input, TokenScaledInput):
        return gemm
    return replace(gemm, input=PerTokenInput(), bias=gemm.bias_dynamic)


def unscaled_bias(gemm: GemmPlan) -> np.ndarray:
    """Bias (out,) of `PortableGemms`: divided by the weight scales, which are multiplied in behind it."""
    return (as_hybrid(gemm).bias / gemm.weight_scale[:, 0]).astype(np.float32)


def block_quantized_weight(graph: Graph, gemm: GemmPlan, columns: int) -> Value:
    """INT4 block-quantized weights, zero-padded to the input width (`columns`) that `pin_range` makes."""
    padding = columns - gemm.weight.shape[1]
    weight = np.pad(gemm.weight, ((0, 0), (0, padding)))
    scale = np.pad(gemm.weight_scale, ((0, 0), (0, padding // gemm.group_size)), constant_values=1)
    return graph.constant_int4(f"{gemm.name}.weight_q", weight, scale)


def range_channels(gemm: GemmPlan) -> int:
    """Channels that `pin_range` appends to a static input: a whole block where weights are block-quantized."""
    return _RANGE_CHANNELS if gemm.weight_scale.shape[1] == 1 else gemm.group_size


def pin_range(graph: Graph, name: str, x: Value, quantizer: StaticInput, channels: int) -> Value:
    """x (..., K) clipped to the quantizer's range, with qmin, qmax and zeros appended: (..., K + channels)."""
    qmin, qmax = quantizer.ends
    width, shape = x.shape[-1], (*x.shape[:-1], x.shape[-1] + channels)
    paddings = np.zeros((len(shape), 2), np.int32)
    paddings[-1, 1] = channels
    floor, ceiling = np.zeros((2, shape[-1]), np.float32)
    floor[:width], ceiling[:width] = qmin, qmax
    floor[width], ceiling[width] = qmin, qmin
    floor[width + 1], ceiling[width + 1] = qmax, qmax
    x = graph.add("PAD", f"{name}.room", [x, graph.constant(f"{name}.paddings", paddings)], shape)
    x = graph.add("MAXIMUM", f"{name}.raised", [x, graph.constant(f"{name}.floor", floor)], shape)
    return graph.add("MINIMUM", f"{name}.clipped", [x, graph.constant(f"{name}.ceiling", ceiling)], shape)
