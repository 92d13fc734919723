"""How weights stand in a TFLite graph: float32, float16, or the plan's integers and input quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.backends.tflite.flatbuffer import Graph, Quantization, Value
from edgekit.errors import ExportError
from edgekit.plan.quant import (
    FloatInput,
    GemmPlan,
    PerTokenInput,
    QuantPlan,
    StaticInput,
    TokenGroupInput,
    TokenScaledInput,
)

_ENDS = 8  # channels behind the others: the two ends of a static range, and zeros that keep rows aligned
_BLOCK = 32  # XNNPACK's blocks of 4-bit weights hold a multiple of this


class FloatGemms:
    """Every product in float32, weights and biases straight from the model's tensors."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors = tensors

    def linear(self, graph: Graph, name: str, x: Value) -> Value:
        """FULLY_CONNECTED with bias."""
        return self.product(graph, name, x, self.weight(graph, name), self.bias(graph, name))

    def product(self, graph: Graph, name: str, x: Value, weight: Value, bias: Value) -> Value:
        """x W^T + b."""
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        shape = (*x.shape[:-1], weight.shape[0])
        return graph.add("FULLY_CONNECTED", name, [x, weight, bias], shape, options=options, version=5)

    def convolution(self, graph: Graph, name: str, pixels: Value, patch: int) -> Value:
        """CONV_2D, kernel and stride of one patch."""
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.VALID, patch, patch
        options.dilationHFactor = options.dilationWFactor = 1
        weight = self.weight(graph, name)
        shape = (-1, pixels.shape[1] // patch, pixels.shape[2] // patch, weight.shape[0])
        return graph.add("CONV_2D", name, [pixels, weight, self.bias(graph, name)], shape, options=options)

    def weight(self, graph: Graph, name: str) -> Value:
        """(out, in), or (D, patch, patch, 3) of the patch embedding."""
        return graph.constant(f"{name}.weight", channels_last(self.tensors[f"{name}.weight"]))

    def bias(self, graph: Graph, name: str) -> Value:
        """Float32 (out,)."""
        return graph.constant(f"{name}.bias", self.tensors[f"{name}.bias"])


class HalfGemms(FloatGemms):
    """fp16: weights stored in half, widened to float32 when the file is loaded; arithmetic stays float32."""

    def weight(self, graph: Graph, name: str) -> Value:
        """float16 constant -> DEQUANTIZE.

        Raises:
            ExportError: a weight is beyond what float16 holds.
        """
        full = channels_last(self.tensors[f"{name}.weight"])
        if np.abs(full).max() > np.finfo(np.float16).max:
            raise ExportError(
                f"{name}.weight holds {np.abs(full).max():.3g}, which float16 cannot", fix="--precision fp32"
            )
        return widened(graph, f"{name}.weight", graph.constant(f"{name}.weight", full.astype(np.float16)), version=3)


class WeightGemms(FloatGemms):
    """w8: the plan's int8 weights, float inputs.

    The bias is the uncorrected one, since the corrected one repairs an activation error that does not occur here.
    """

    def __init__(self, plan: QuantPlan) -> None:
        super().__init__(plan.float_tensors)
        self.plan = plan

    def weight(self, graph: Graph, name: str) -> Value:
        """The plan's integers -> DEQUANTIZE; float where the plan keeps the GEMM float."""
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().weight(graph, name)
        return widened(graph, f"{name}.weight", self.integers(graph, gemm), version=5)

    def integers(self, graph: Graph, gemm: GemmPlan, *, columns: int | None = None) -> Value:
        """int8 constant with a scale per output channel, in the layout of the operator.

        Args:
            graph: to write to.
            gemm: of the plan.
            columns: (out, columns) in any case, zeros behind the weights; None keeps the convolution's four axes.

        Raises:
            ExportError: the plan's scales belong to groups of input channels.
        """
        groups = gemm.weight_scale.shape[1]
        if gemm.weight_zero is not None:
            raise ExportError(
                f"{gemm.name} has 4-bit weights with zero points",
                why="TFLite's blocks have none",
                fix="a recipe with zero_points = false",
            )
        if groups > 1 and columns is not None and gemm.weight_bits == 4 and gemm.group_size % _BLOCK == 0:
            return four_bits(graph, gemm, columns)
        if groups > 1:
            raise ExportError(
                f"{gemm.name} has {groups} weight scales per output channel for {gemm.weight_bits} bits",
                why=f"TFLite takes one, or blocks of {_BLOCK} and 4 bits",
                fix="--precision w4a8, or a recipe without group_size",
            )
        integers = channels_last(gemm.weight.reshape(self.tensors[f"{gemm.name}.weight"].shape))
        if columns is not None:
            integers = integers.reshape(len(integers), -1)
            integers = np.pad(integers, ((0, 0), (0, columns - integers.shape[1])))
        return graph.constant(f"{gemm.name}.weight_q", integers, Quantization(self.stored_scale(gemm)))

    def stored_scale(self, gemm: GemmPlan) -> np.ndarray:
        """Scales that stand beside the integers: the plan's, (out,)."""
        return gemm.weight_scale[:, 0]

    def bias(self, graph: Graph, name: str) -> Value:
        """The plan's uncorrected bias."""
        gemm = self.plan.gemms.get(name)
        return super().bias(graph, name) if gemm is None else graph.constant(f"{name}.bias", self.planned_bias(gemm))

    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        """The bias that belongs to float inputs."""
        return gemm.bias_dynamic


class IntegerGemms(WeightGemms):
    """w8a8, w4a8: integer weights go into the operator as they are, XNNPACK quantizes its input inside the int8 GEMM.

    It takes a token's range from the token's values: the plan's per-token quantizer. For a static one the values are
    clipped to the plan's range, and channels with zero weights carry its two ends: scale and zero point are then the
    plan's, for every token. Output is float32, as in the plan.
    """

    def linear(self, graph: Graph, name: str, x: Value) -> Value:
        """Hybrid FULLY_CONNECTED."""
        gemm = self.plan.gemms.get(name)
        return super().linear(graph, name, x) if gemm is None else self.hybrid(graph, gemm, x)

    def convolution(self, graph: Graph, name: str, pixels: Value, patch: int) -> Value:
        """The patches as rows, so that each gets its own range, and a hybrid FULLY_CONNECTED."""
        gemm = self.plan.gemms.get(name)
        if gemm is None:
            return super().convolution(graph, name, pixels, patch)
        options = schema.SpaceToDepthOptionsT()
        options.blockSize = patch
        shape = (-1, pixels.shape[1] // patch, pixels.shape[2] // patch, 3 * patch * patch)
        return self.hybrid(graph, gemm, graph.add("SPACE_TO_DEPTH", f"{name}.rows", [pixels], shape, options=options))

    def hybrid(self, graph: Graph, gemm: GemmPlan, x: Value) -> Value:
        """Float in, int8 weights, float out. Version 12 says "scale per channel": an older runtime refuses the file."""
        x = self.prepared(graph, gemm, x)
        weight = self.integers(graph, gemm, columns=x.shape[-1])
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = options.asymmetricQuantizeInputs = True
        inputs = [x, weight, self.bias(graph, gemm.name)]
        shape = (*x.shape[:-1], weight.shape[0])
        return graph.add("FULLY_CONNECTED", gemm.name, inputs, shape, options=options, version=12)

    def prepared(self, graph: Graph, gemm: GemmPlan, x: Value) -> Value:
        """`x` (..., K) as it is, or clipped to a static range with its ends behind: (..., K + ends)."""
        match gemm.input:
            case StaticInput():
                return with_ends(graph, gemm.name, x, gemm.input, ends_of(gemm))
            case PerTokenInput() | TokenScaledInput():
                return x
            case TokenGroupInput(split, head, tail):
                bounds = {"head": (0, split, head), "tail": (split, x.shape[1], tail)}
                parts = [
                    with_ends(
                        graph,
                        f"{gemm.name}.{group}",
                        graph.tokens(f"{gemm.name}.{group}", x, first, end),
                        quantizer,
                        ends_of(gemm),
                    )
                    for group, (first, end, quantizer) in bounds.items()
                ]
                joined = schema.ConcatenationOptionsT()
                joined.axis = 1
                shape = (*x.shape[:-1], parts[0].shape[-1])
                return graph.add("CONCATENATION", f"{gemm.name}.joined", parts, shape, options=joined)
            case FloatInput():
                raise ExportError(
                    f"the plan leaves the input of {gemm.name} float",
                    why="it is one of weights alone",
                    fix="--precision w8",
                )

    def planned_bias(self, gemm: GemmPlan) -> np.ndarray:
        """The bias that belongs to the input quantizer."""
        return as_hybrid(gemm).bias


class PortableGemms(IntegerGemms):
    """w8a8 that tflite-runtime computes rightly as well: it reads one scale of all integers, and would skip the rest.

    That scale is 1, so that the operator gives sums of integers, and a MUL behind it brings the plan's scales in.
    """

    def hybrid(self, graph: Graph, gemm: GemmPlan, x: Value) -> Value:
        """Hybrid FULLY_CONNECTED, of the version that knows inputs with a zero point, and MUL."""
        x = self.prepared(graph, gemm, x)
        weight = self.integers(graph, gemm, columns=x.shape[-1])
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = options.asymmetricQuantizeInputs = True
        inputs = [x, weight, graph.constant(f"{gemm.name}.bias", bias_in_steps(gemm))]
        shape = (*x.shape[:-1], weight.shape[0])
        sums = graph.add("FULLY_CONNECTED", gemm.name, inputs, shape, options=options, version=9)
        scale = graph.constant(f"{gemm.name}.weight_scale", gemm.weight_scale[:, 0])
        return graph.add("MUL", f"{gemm.name}/scaled", [sums, scale], shape, options=schema.MulOptionsT())

    def stored_scale(self, gemm: GemmPlan) -> np.ndarray:
        """1."""
        return np.ones(1, np.float32)


def as_hybrid(gemm: GemmPlan) -> GemmPlan:
    """What the hybrid operator makes of a GEMM: tokens that the plan divides by their peak get their own range instead.

    The operator takes it anyway, and it is the finer one: nothing has to be divided and multiplied back.
    """
    if not isinstance(gemm.input, TokenScaledInput):
        return gemm
    return replace(gemm, input=PerTokenInput(), bias=gemm.bias_dynamic)


def bias_in_steps(gemm: GemmPlan) -> np.ndarray:
    """The bias (out,) before the weight scales are multiplied in."""
    return (as_hybrid(gemm).bias / gemm.weight_scale[:, 0]).astype(np.float32)


def four_bits(graph: Graph, gemm: GemmPlan, columns: int) -> Value:
    """The plan's blocks, and one of zeros behind them where the ends of a range are."""
    empty = columns - gemm.weight.shape[1]
    weight = np.pad(gemm.weight, ((0, 0), (0, empty)))
    scale = np.pad(gemm.weight_scale, ((0, 0), (0, empty // gemm.group_size)), constant_values=1)
    return graph.constant_int4(f"{gemm.name}.weight_q", weight, scale)


def ends_of(gemm: GemmPlan) -> int:
    """How many channels stand behind the others of a static input: a whole block where weights have blocks."""
    return _ENDS if gemm.weight_scale.shape[1] == 1 else gemm.group_size


def with_ends(graph: Graph, name: str, x: Value, quantizer: StaticInput, ends: int) -> Value:
    """PAD, MAXIMUM, MINIMUM: bounds per channel clip the values and turn two of the padded zeros into the ends."""
    low, high = quantizer.ends
    channels, shape = x.shape[-1], (*x.shape[:-1], x.shape[-1] + ends)
    paddings = np.zeros((len(shape), 2), np.int32)
    paddings[-1, 1] = ends
    floor, ceiling = np.zeros((2, shape[-1]), np.float32)
    floor[:channels], ceiling[:channels] = low, high
    floor[channels], ceiling[channels] = low, low
    floor[channels + 1], ceiling[channels + 1] = high, high
    x = graph.add("PAD", f"{name}.room", [x, graph.constant(f"{name}.paddings", paddings)], shape)
    x = graph.add("MAXIMUM", f"{name}.raised", [x, graph.constant(f"{name}.floor", floor)], shape)
    return graph.add("MINIMUM", f"{name}.clipped", [x, graph.constant(f"{name}.ceiling", ceiling)], shape)


def widened(graph: Graph, name: str, stored: Value, *, version: int) -> Value:
    """float32 of a float16 or int8 constant."""
    return graph.add("DEQUANTIZE", name, [stored], stored.shape, options=schema.DequantizeOptionsT(), version=version)


def channels_last(weight: np.ndarray) -> np.ndarray:
    """(D, 3, patch, patch) -> (D, patch, patch, 3); (out, in) stays."""
    return weight if weight.ndim == 2 else np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
