"""GEMMs of a QuantPlan in standard ONNX ops, for each integer precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import onnx_ir as ir
from typing_extensions import override

from edgekit.backends.onnx.attention import integer_attention
from edgekit.backends.onnx.builder import GraphBuilder
from edgekit.backends.onnx.per_token import per_token_gemm, token_scaled_gemm
from edgekit.backends.onnx.weights import (
    Storage,
    accumulator_scale,
    block_size_of,
    blocked_weight,
    channel_scale,
    int32_bias,
    integer_weight,
)
from edgekit.errors import ExportError
from edgekit.graph.backbone import PATCH_EMBED
from edgekit.graph.emitter import Sides, Tensors
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


@dataclass(frozen=True)
class Rows:
    """Rows of a GEMM's input that share one static quantizer: all tokens, or one of several groups.


    `tokens` is None where their number is known at run time only.
    """

    tokens: int | None
    quantizer: StaticInput
    part: str = ""  # ".head", ".tail": added to the names of a group's nodes


class FloatGemms(GemmStrategy[ir.Value]):
    """Every product in the graph's float type: MatMul then Add, weights stored transposed as (in, out)."""

    def __init__(self, graph: GraphBuilder, config: ViTConfig, tensors: Tensors) -> None:
        self.graph, self.config, self.tensors = graph, config, tensors

    @override
    def linear(self, name: str, x: ir.Value) -> ir.Value:
        """MatMul and Add."""
        product = self.graph.node("MatMul", [x, self.parameter(f"{name}.weight", transpose=True)], f"{name}/MatMul")
        return self.graph.node("Add", [product, self.parameter(f"{name}.bias")], f"{name}/Add")

    @override
    def patch_embed(self, name: str, pixels: ir.Value) -> ir.Value:
        """Conv with bias, kernel and stride of one patch."""
        sides = [self.config.patch] * 2
        inputs = [pixels, self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")]
        x = self.graph.node("Conv", inputs, f"{name}/Conv", {"kernel_shape": sides, "strides": sides})
        x = self.graph.node("Reshape", [x, self.graph.ints(0, 0, -1)], f"{name}/Reshape")  # (B, D, P)
        return self.graph.node("Transpose", [x], f"{name}/Transpose", {"perm": [0, 2, 1]})

    @override
    def attention(self, name: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """MatMul, Softmax, MatMul; the scale multiplies q unless it is folded away."""
        graph = self.graph
        if self.tensors[f"{name}.scale"].item() != 1.0:
            q = graph.node("Mul", [q, self.parameter(f"{name}.scale")], f"{name}.q/Mul")
        keys = graph.node("Transpose", [k], f"{name}.k/Transpose", {"perm": [0, 1, 3, 2]})  # (B, H, d, N)
        logits = graph.node("MatMul", [q, keys], f"{name}.logits/MatMul")  # (B, H, N, N)
        weights = graph.node("Softmax", [logits], f"{name}/Softmax", {"axis": -1})
        return graph.node("MatMul", [weights, v], f"{name}.mix/MatMul")  # (B, H, N, d)

    def parameter(self, key: str, *, transpose: bool = False) -> ir.Value:
        """The initializer of a state-dict key."""
        return self.graph.constant(key, self.tensors[key].T if transpose else self.tensors[key])


class StaticGemms(FloatGemms):
    """w8a8: what the plan quantizes runs on integers with the plan's own scales; the rest stays float.

    A static input becomes QuantizeLinear, DequantizeLinear and a Gemm over dequantized initializers with an int32 bias:
    the form that ONNX Runtime turns into one QGemm (u8 x s8 -> int32 -> float32). Outputs are never quantized.
    """

    def __init__(
        self, graph: GraphBuilder, plan: QuantPlan, storage: Storage = "int8", sides: Sides | None = None
    ) -> None:
        """`sides` are those of images whose size is known at run time only."""
        super().__init__(graph, plan.config, plan.float_tensors)
        self.plan, self.storage, self.sides = plan, storage, sides
        self.tokens = None if sides else plan.config.tokens(*plan.image_size)
        self._leading: dict[str, ir.Value] = {}  # (B, tokens) of all tokens, of the patches, of a token group
        self._shapes: dict[tuple[str, int], ir.Value] = {}  # the same and a number of channels

    def gemm(self, name: str) -> GemmPlan | None:
        """The plan's entry.

        Raises:
            ExportError: its weights share scales in groups, for which standard ops have no integer kernel.
        """
        gemm = self.plan.gemms.get(name)
        if gemm is not None and gemm.weight_scale.shape[1] > 1:
            raise ExportError(
                f"{name} has {gemm.weight_scale.shape[1]} weight scales per row",
                why="integer GEMMs of standard ONNX ops take one per output channel",
                fix="--precision w4a8, or a recipe without group_size",
            )
        return gemm

    @override
    def linear(self, name: str, x: ir.Value) -> ir.Value:
        gemm = self.gemm(name)
        if gemm is None:
            return super().linear(name, x)
        return self.integer(gemm, x, self.tokens)

    @override
    def patch_embed(self, name: str, pixels: ir.Value) -> ir.Value:
        """The patch embedding as the GEMM it is, over patches laid out in rows of 3 * patch * patch values."""
        gemm = self.gemm(name)
        if gemm is None:
            return super().patch_embed(name, pixels)
        (rows, columns), patch = self.config.grid, self.config.patch
        if self.sides is None:
            count, unfolded = rows * columns, self.graph.ints(-1, 3, rows, patch, columns, patch)
            flat = self.graph.ints(-1, rows * columns, 3 * patch**2)
        else:
            count, unfolded, flat = None, *self._patch_shapes(name, pixels)
        x = self.graph.node("Reshape", [pixels, unfolded], f"{name}.unfold/Reshape")
        x = self.graph.node("Transpose", [x], f"{name}.unfold/Transpose", {"perm": [0, 2, 4, 1, 3, 5]})
        x = self.graph.node("Reshape", [x, flat], f"{name}.rows/Reshape")
        return self.integer(gemm, x, count)

    def _patch_shapes(self, name: str, pixels: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Shapes (B, 3, rows, patch, columns, patch) and (B, P, 3 patch^2) of images (B, 3, H, W) of any size."""
        graph, patch = self.graph, self.config.patch
        counts = graph.node("Div", [_shape(graph, pixels, name, 2, 4), graph.ints(patch)], f"{name}.patches/Div")
        rows, columns = graph.split(counts, (1, 1), 0, f"{name}.patches/Split", (f"{name}.nrows", f"{name}.ncolumns"))
        edge = graph.ints(patch)
        parts = [graph.ints(-1, 3), rows, edge, columns, edge]
        unfolded = graph.node("Concat", parts, f"{name}.unfold/Concat", {"axis": 0})
        product = graph.node("Mul", [rows, columns], f"{name}.count/Mul")
        parts = [graph.ints(-1), product, graph.ints(3 * patch**2)]
        return unfolded, graph.node("Concat", parts, f"{name}.rows/Concat", {"axis": 0})

    @override
    def attention(self, name: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Both products in integers when the plan has their scales (level "all"), else float."""
        matmul = self.plan.matmuls.get(name)
        if matmul is None:
            return super().attention(name, q, k, v)
        most = (
            self.config.tokens(self.sides[1], self.sides[1])
            if self.sides
            else self.config.tokens(*self.plan.image_size)
        )
        scale = self.tensors[f"{name}.scale"].item()
        return integer_attention(self.graph, matmul, scale, (q, k, v), most, fixed=self.sides is None)

    def integer(self, gemm: GemmPlan, x: ir.Value, tokens: int | None) -> ir.Value:
        """GEMM (B, tokens, in) -> (B, tokens, out) with the input quantizer that the plan names."""
        match gemm.input:
            case StaticInput():
                return self.static(gemm, x, Rows(tokens, gemm.input))
            case TokenGroupInput(split, head, tail):
                groups = Rows(split, head, ".head"), Rows(tokens and tokens - split, tail, ".tail")
                return self.token_groups(gemm, x, groups)
            case TokenScaledInput(quotient):
                return token_scaled_gemm(self.graph, gemm, x, lambda x: self.product(gemm, x, Rows(tokens, quotient)))
            case PerTokenInput():
                return per_token_gemm(self.graph, gemm, x, self.storage)
            case FloatInput():
                raise ExportError(
                    f"the plan leaves the input of {gemm.name} float",
                    why="it is one of weights alone",
                    fix="--precision w8a8",
                )
            case _:
                assert_never(gemm.input)

    def static(self, gemm: GemmPlan, x: ir.Value, rows: Rows) -> ir.Value:
        """One GEMM with one scale and zero point for all its rows, and its bias."""
        steps = int32_bias(gemm, rows.quantizer)
        y = self.product(gemm, x, rows, steps)
        if steps is not None:
            return y
        bias = self.graph.constant(f"{gemm.name}.float_bias", gemm.bias)
        return self.graph.node("Add", [y, bias], f"{gemm.name}{rows.part}/Add")

    def product(self, gemm: GemmPlan, x: ir.Value, rows: Rows, bias: np.ndarray | None = None) -> ir.Value:
        """x W^T over static integers, with a `bias` (out,) in steps of the int32 accumulator if there is one."""
        name, quantizer, (out, features) = gemm.name + rows.part, rows.quantizer, gemm.weight.shape
        shape = self._output_shape(name, x, rows, out)
        x = self.graph.node("Reshape", [x, self.graph.ints(-1, features)], f"{name}.input/Reshape")
        x = quantize_dequantize(self.graph, name, x, quantizer)
        weight, zero = integer_weight(self.graph, gemm, self.storage, rows.part)
        if rows.part == ".tail":
            # a tensor of its own once constants are folded: ONNX Runtime cannot turn a shared one into uint8
            weight = self.graph.node("Reshape", [weight, self.graph.ints(features, out)], f"{name}.weight/Reshape")
        weights = [weight, channel_scale(self.graph, gemm), zero]
        inputs = [x, self.graph.node("DequantizeLinear", weights, f"{name}.weight/DequantizeLinear", {"axis": 1})]
        if bias is not None:
            scale = self.graph.constant(f"{name}.bias_scale", accumulator_scale(gemm, quantizer))
            steps = self.graph.constant(f"{name}.bias", bias)
            inputs.append(
                self.graph.node("DequantizeLinear", [steps, scale], f"{name}.bias/DequantizeLinear", {"axis": 0})
            )
        y = self.graph.node("Gemm", inputs, f"{name}/Gemm")
        return self.graph.node("Reshape", [y, shape], f"{name}.output/Reshape")

    def _output_shape(self, name: str, x: ir.Value, rows: Rows, out: int) -> ir.Value:
        """Shape (B, tokens, out) for an input (B, tokens, in): of any number of tokens one for all GEMMs."""
        if rows.tokens is not None:
            return self.graph.ints(-1, rows.tokens, out)
        kind = ("patches" if name == PATCH_EMBED else "tokens") + rows.part
        if kind not in self._leading:
            self._leading[kind] = _shape(self.graph, x, kind, 0, 2)
        if (kind, out) not in self._shapes:
            parts = [self._leading[kind], self.graph.ints(out)]
            self._shapes[kind, out] = self.graph.node("Concat", parts, f"{kind}.{out}/Concat", {"axis": 0})
        return self._shapes[kind, out]

    def token_groups(self, gemm: GemmPlan, x: ir.Value, groups: tuple[Rows, Rows]) -> ir.Value:
        """The same GEMM over the first tokens (CLS and registers) and over the patches, each with its own scale."""
        sizes, names = [rows.tokens for rows in groups], [f"{gemm.name}{rows.part}.tokens" for rows in groups]
        pieces = self._pieces(x, sizes, f"{gemm.name}.input", names)
        outputs = [self.static(gemm, piece, rows) for piece, rows in zip(pieces, groups, strict=True)]
        return self.graph.node("Concat", outputs, f"{gemm.name}/Concat", {"axis": 1})

    def _pieces(self, x: ir.Value, sizes: list[int | None], name: str, names: list[str]) -> list[ir.Value]:
        """The first tokens of x, and the rest, of which there may be any number."""
        first, rest = sizes
        assert first is not None
        if rest is not None:
            return self.graph.split(x, (first, rest), 1, f"{name}/Split", names)
        ints, ends = self.graph.ints, ((0, first), (first, 2**31 - 1))
        return [
            self.graph.node("Slice", [x, ints(start), ints(end), ints(1)], f"{part}/Slice")
            for (start, end), part in zip(ends, names, strict=True)
        ]


class DynamicGemms(StaticGemms):
    """w8: the plan's integer weights; the range of each input, one per tensor, is taken at run time.

    DynamicQuantizeLinear, MatMulInteger, Cast, Mul, Add: the form that ONNX Runtime turns into DynamicQuantizeMatMul.
    """

    @override
    def integer(self, gemm: GemmPlan, x: ir.Value, tokens: int | None) -> ir.Value:
        """Whatever input quantizer the plan names, the range is that of the tensor at hand."""
        name = gemm.name
        quantized, scale, zero = self.graph.multiple(
            "DynamicQuantizeLinear",
            [x],
            f"{name}.input/DynamicQuantizeLinear",
            [f"{name}.input_{part}" for part in ("quantized", "scale", "zero_point")],
        )
        weight, weight_zero = integer_weight(self.graph, gemm, self.storage)
        total = self.graph.node("MatMulInteger", [quantized, weight, zero, weight_zero], f"{name}/MatMulInteger")
        total = self.graph.node("Cast", [total], f"{name}/Cast", {"to": ir.DataType.FLOAT})
        scale = self.graph.node("Mul", [scale, channel_scale(self.graph, gemm)], f"{name}.scale/Mul")
        y = self.graph.node("Mul", [total, scale], f"{name}/Mul")
        return self.graph.node("Add", [y, self.graph.constant(f"{name}.bias", gemm.bias_dynamic)], f"{name}/Add")

    @override
    def attention(self, name: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Float: only weights are quantized ahead of time in this precision."""
        return FloatGemms.attention(self, name, q, k, v)


class BlockedGemms(StaticGemms):
    """w4a8: int4 weights in blocks of input channels behind a DequantizeLinear (opset 21), float activations.

    ONNX Runtime turns each into MatMulNBits, which at accuracy level 4 quantizes the activations to int8 by itself, one
    scale per token and block; so the plan's input quantizers are not used, and its uncorrected bias is. GEMMs that the
    plan keeps at 8 bits, and those no block size divides (the patch embedding), are written as in w8a8.
    """

    @override
    def gemm(self, name: str) -> GemmPlan | None:
        """The plan's entry; groups are what blocks are for, if their size is one that the runtime knows."""
        gemm = self.plan.gemms.get(name)
        return super().gemm(name) if gemm is None or block_size_of(gemm) is None else gemm

    @override
    def integer(self, gemm: GemmPlan, x: ir.Value, tokens: int | None) -> ir.Value:
        """MatMul over blocked int4 weights where they can be, else static QDQ."""
        if gemm.weight_bits > 4 or block_size_of(gemm) is None:
            return super().integer(gemm, x, tokens)
        y = self.graph.node("MatMul", [x, blocked_weight(self.graph, gemm)], f"{gemm.name}/MatMul")
        return self.graph.node(
            "Add", [y, self.graph.constant(f"{gemm.name}.bias", gemm.bias_dynamic)], f"{gemm.name}/Add"
        )


def _shape(graph: GraphBuilder, x: ir.Value, name: str, start: int, end: int) -> ir.Value:
    """Some sides of the shape of x, int64."""
    return graph.node("Shape", [x], f"{name}/Shape", {"start": start, "end": end})


def quantize_dequantize(graph: GraphBuilder, name: str, x: ir.Value, quantizer: StaticInput) -> ir.Value:
    """QuantizeLinear and DequantizeLinear with one uint8 scale and zero point."""
    scale = graph.constant(f"{name}.input_scale", np.array(quantizer.scale, np.float32))
    zero = graph.constant(f"{name}.input_zero_point", np.array(quantizer.zero_point, np.uint8))
    x = graph.node("QuantizeLinear", [x, scale, zero], f"{name}.input/QuantizeLinear")
    return graph.node("DequantizeLinear", [x, scale, zero], f"{name}.input/DequantizeLinear")
