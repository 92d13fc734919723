"""Writes DINOv2 as a TFLite graph of integers alone: int8 in, out and in the weights, int16 everywhere between.

What tflite-runtime 2.14 has no int16 kernel for is written in what it has: GELU by LOGISTIC, 1 / sqrt(x) by GATHER from
a table. Variances are sums of a BATCH_MATMUL, so that no square has to fit int16.
Shapes: B batch (dynamic), N tokens, D width, H heads, F hidden width of the MLP; images are (B, height, width, 3).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.tflite.flatbuffer import Value
from edgekit.backends.tflite.gemms import channels_last
from edgekit.backends.tflite.int16.fixed_point import FLOOR, HEADROOM, LARGEST, FixedPoint, Ranges, grid_of
from edgekit.plan.quant import GemmPlan, PerTokenInput

if TYPE_CHECKING:
    from edgekit.plan.quant import QuantPlan

LAYER_NORM_EPS = 1e-6  # as edgekit.models.vit, which would load torch
_BEND = 4.0  # beyond it GELU is x or 0 as far as anyone sees
_PATCHES = "patch_embed.proj"


def write_integer(plan: QuantPlan, ranges: Ranges | None) -> tuple[FixedPoint, dict[str, Value], dict[str, Value]]:
    """The export contract: the graph, its input and its outputs by name; in float where `ranges` are not known yet."""
    writer = Writer(plan, FixedPoint(ranges))
    return (writer.sheet, *writer.model())


class Writer:
    """Writes the modules of one plan; every method takes and returns int16 values."""

    def __init__(self, plan: QuantPlan, sheet: FixedPoint) -> None:
        self.plan, self.config, self.tensors, self.sheet = plan, plan.config, plan.float_tensors, sheet
        c = plan.config
        self.tokens = 1 + c.registers + c.grid[0] * c.grid[1]

    def model(self) -> tuple[dict[str, Value], dict[str, Value]]:
        """`pixel_values` -> both outputs."""
        height, width = (side * self.config.patch for side in self.config.grid)
        pixels = self.sheet.input(INPUT_NAME, (-1, height, width, 3))
        x = self.embed(pixels)
        for i in range(self.config.depth):
            x = self.block(f"blocks.{i}", x)
        if "unrotate" in self.tensors:
            x = self.sheet.linear(rounded("unrotate", self.tensors["unrotate"].T), x, np.zeros(self.config.width))
        hidden = self.norm("norm", x)
        pooled = self.reshape("pooler.row", self.first(hidden), (-1, self.config.width))
        outputs = zip(OUTPUT_NAMES, (hidden, pooled), strict=True)
        return self.sheet.inputs, {n: self.sheet.output(n, x) for n, x in outputs}

    def embed(self, pixels: Value) -> Value:
        """(B, height, width, 3) -> (B, N, D); CLS, registers and positions come in as in `tflite_graph`."""
        c, prefix = self.config, 1 + self.config.registers
        weight = self.tensors[f"{_PATCHES}.weight"]
        gemm = self.gemm(_PATCHES)
        integers = channels_last(gemm.weight.reshape(weight.shape))
        x = self.sheet.convolution(gemm, integers, pixels, gemm.bias_dynamic, c.patch)
        x = self.reshape("patch_embed.tokens", x, (-1, self.tokens - prefix, c.width))
        paddings = self.sheet.graph.constant("prefix.paddings", np.array([[0, 0], [prefix, 0], [0, 0]], np.int32))
        x = self.sheet.like("PAD", "patch_embed.padded", x, [paddings], (-1, self.tokens, c.width))
        position = self.tensors["pos_embed"]  # (1, 1 + patches, D)
        parts = [self.tensors["cls_token"] + position[:, :1]]
        if c.registers:  # registers carry no position
            parts.append(self.tensors["register_tokens"])
        return self.plus("tokens", x, self.sheet.constant("tokens.added", np.concatenate([*parts, position[:, 1:]], 1)))

    def block(self, name: str, x: Value) -> Value:
        """Pre-norm block; an absent LayerScale means it is folded."""
        branch = self.attention(f"{name}.attn", self.norm(f"{name}.norm1", x))
        x = self.plus(f"{name}.residual1", x, self.row(f"{name}.ls1.gamma", branch))
        branch = self.ffn(f"{name}.mlp", self.norm(f"{name}.norm2", x))
        return self.plus(f"{name}.residual2", x, self.row(f"{name}.ls2.gamma", branch))

    def norm(self, name: str, x: Value) -> Value:
        """LayerNorm: the deviations over their length, times sqrt(D)."""
        width, column = x.shape[-1], (*x.shape[:-1], 1)
        options = schema.ReducerOptionsT()
        options.keepDims = True
        axis = self.sheet.graph.constant(f"{name}.axis", np.array([-1], np.int32))
        mean = self.sheet.op("MEAN", f"{name}.mean", [x, axis], column, options=options, version=3)
        centred = self.sheet.op(
            "SUB", f"{name}.centred", [x, mean], x.shape, options=_plain(schema.SubOptionsT()), version=5
        )
        rows = self.reshape(f"{name}.rows", centred, (-1, self.tokens, 1, width))
        squares = self.matmul(f"{name}.squares", rows, rows, (-1, self.tokens, 1, 1), transpose=True)
        inverse = self.inverse_root(f"{name}.inverse", self.reshape(f"{name}.sum", squares, column), width)
        unit = self.times(f"{name}.unit", centred, inverse)
        weight = self.tensors[f"{name}.weight"].ravel() * math.sqrt(width)
        scaled = self.times(f"{name}.scaled", unit, self.sheet.constant(f"{name}.weight", weight))
        return self.plus(name, scaled, self.sheet.constant(f"{name}.bias", self.tensors[f"{name}.bias"].ravel()))

    def inverse_root(self, name: str, x: Value, width: int) -> Value:
        """1 / sqrt(x + eps) of sums of squares, by a table over all int16 values that are not negative."""
        graph, eps = self.sheet.graph, width * LAYER_NORM_EPS
        if self.sheet.ranges is None:
            self.sheet.watched[f"{name}{FLOOR}"] = x
            shift = graph.constant(f"{name}.eps", np.array([eps], np.float32))
            shifted = graph.add("ADD", f"{name}.shifted", [x, shift], x.shape, options=schema.AddOptionsT())
            return graph.add("RSQRT", name, [shifted], x.shape)
        sums = np.arange(LARGEST + 1) * self.sheet.scale(x) + eps
        least = self.sheet.ranges.floors[f"{name}{FLOOR}"] / HEADROOM + eps
        scale = 1 / math.sqrt(least) / LARGEST
        table = np.clip(np.rint(1 / np.sqrt(sums) / scale), 0, LARGEST).astype(np.int16)
        index = graph.add("CAST", f"{name}.index", [x], x.shape, options=schema.CastOptionsT(), dtype=np.int32)
        stored = graph.constant(f"{name}.table", table, grid_of(scale))
        return self.sheet.op("GATHER", name, [stored, index], x.shape, options=schema.GatherOptionsT(), scale=scale)

    def attention(self, name: str, x: Value) -> Value:
        """softmax(q k^T * scale) v of the packed projection: (B, N, D) -> (B, N, D)."""
        c, n = self.config, self.tokens
        packed = self.linear(f"{name}.qkv", x)
        q, k, v = (self.head(f"{name}.{p}", o) for p, o in zip("qkv", self.sheet.split(name, packed, 3), strict=True))
        if (scale := self.tensors[f"{name}.scale"].item()) != 1:
            q = self.times(f"{name}.q_scaled", q, self.sheet.constant(f"{name}.scale", np.array([scale])))
        logits = self.matmul(f"{name}.logits", q, k, (-1, c.heads, n, n), transpose=True)
        softmax = schema.SoftmaxOptionsT()
        softmax.beta = 1.0
        shares = self.sheet.op(
            "SOFTMAX",
            f"{name}.probabilities",
            [logits],
            logits.shape,
            options=softmax,
            version=3,
            scale=1 / (LARGEST + 1),
        )
        mixed = self.matmul(f"{name}.weighted", shares, v, q.shape, transpose=False)  # (B, H, N, D/H)
        joined = self.transpose(f"{name}.join", mixed, (0, 2, 1, 3))
        return self.linear(f"{name}.proj", self.reshape(f"{name}.mix", joined, x.shape))

    def head(self, name: str, x: Value) -> Value:
        """(B, N, D) -> (B, H, N, D/H)."""
        c = self.config
        x = self.reshape(f"{name}.heads", x, (-1, self.tokens, c.heads, c.head_dim))
        return self.transpose(name, x, (0, 2, 1, 3))

    def ffn(self, name: str, x: Value) -> Value:
        """fc2(GELU(fc1 x)), or w3(silu(a) * b) of the giant model."""
        if self.config.ffn == "swiglu":
            a, b = self.sheet.split(name, self.linear(f"{name}.w12", x), 2)
            gated = self.times(f"{name}.gated", self.times(f"{name}.silu", a, self.sigmoid(f"{name}.sigmoid", a)), b)
            return self.linear(f"{name}.w3", gated)
        x = self.gelu(f"{name}.gelu", self.linear(f"{name}.fc1", x))
        return self.linear(f"{name}.fc2", self.row(f"{name}.fc2_gain", x))

    def gelu(self, name: str, x: Value) -> Value:
        """x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), GELU's tanh form: within 5e-4 of the exact one."""
        slope = 2 * math.sqrt(2 / math.pi)
        near = self.sheet.narrowed(f"{name}.near", x, _BEND)  # where the cube stays small
        square = self.times(f"{name}.square", near, near)
        bent = self.times(f"{name}.bent", square, self.sheet.constant(f"{name}.cubic", np.array([0.044715 * slope])))
        factor = self.plus(f"{name}.factor", bent, self.sheet.constant(f"{name}.slope", np.array([slope])))
        share = self.sigmoid(f"{name}.share", self.times(f"{name}.argument", near, factor))
        return self.times(name, x, share)

    def sigmoid(self, name: str, x: Value) -> Value:
        """LOGISTIC."""
        return self.sheet.op("LOGISTIC", name, [x], x.shape, version=3, scale=1 / (LARGEST + 1))

    def linear(self, name: str, x: Value) -> Value:
        """A planned GEMM; its bias is the uncorrected one, since int16 inputs make no error to repair."""
        gemm = self.gemm(name)
        return self.sheet.linear(gemm, x, gemm.bias_dynamic)

    def gemm(self, name: str) -> GemmPlan:
        """The plan's integers; rounded to nearest where the plan keeps floats, which no integer device can."""
        if name in self.plan.gemms:
            return self.plan.gemms[name]
        weight = self.tensors[f"{name}.weight"]
        return rounded(name, weight.reshape(len(weight), -1), self.tensors[f"{name}.bias"])

    def first(self, hidden: Value) -> Value:
        """The CLS token: (B, N, D) -> (B, 1, D)."""
        bounds = (("begin", [0, 0, 0]), ("end", [0, 1, 0]), ("strides", [1, 1, 1]))
        constants = [self.sheet.graph.constant(f"pooler.{bound}", np.array(v, np.int32)) for bound, v in bounds]
        options = schema.StridedSliceOptionsT()
        options.beginMask = options.endMask = 0b101  # the whole of batch and channels
        shape = (hidden.shape[0], 1, hidden.shape[2])
        return self.sheet.like("STRIDED_SLICE", "pooler", hidden, constants, shape, options=options, version=4)

    def matmul(self, name: str, a: Value, b: Value, shape: tuple[int, ...], *, transpose: bool) -> Value:
        """Batched product, of b transposed if so said."""
        options = schema.BatchMatMulOptionsT()
        options.adjY = transpose
        return self.sheet.op("BATCH_MATMUL", name, [a, b], shape, options=options, version=3)

    def reshape(self, name: str, x: Value, shape: tuple[int, ...]) -> Value:
        """-1 for the batch."""
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        target = self.sheet.graph.constant(f"{name}.shape", np.array(shape, np.int32))
        return self.sheet.like("RESHAPE", name, x, [target], shape, options=options)

    def transpose(self, name: str, x: Value, order: tuple[int, ...]) -> Value:
        """Permute the axes."""
        permutation = self.sheet.graph.constant(f"{name}.order", np.array(order, np.int32))
        shape = tuple(x.shape[axis] for axis in order)
        options = schema.TransposeOptionsT()
        return self.sheet.like("TRANSPOSE", name, x, [permutation], shape, options=options, version=4)

    def plus(self, name: str, a: Value, b: Value) -> Value:
        """a + b, b broadcast."""
        return self.sheet.op("ADD", name, [a, b], a.shape, options=_plain(schema.AddOptionsT()), version=3)

    def times(self, name: str, a: Value, b: Value) -> Value:
        """a * b, b broadcast."""
        return self.sheet.op("MUL", name, [a, b], a.shape, options=schema.MulOptionsT(), version=4)

    def row(self, key: str, x: Value) -> Value:
        """x times a per-channel tensor, if the model has it."""
        if key not in self.tensors:
            return x
        return self.times(f"{key}/scaled", x, self.sheet.constant(key, self.tensors[key].ravel()))


def rounded(name: str, weight: np.ndarray, bias: np.ndarray | None = None) -> GemmPlan:
    """Weights (out, in) to the nearest int8 of a scale per output channel."""
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
    integers = np.rint(weight / scale).astype(np.int8)
    bias = np.zeros(len(weight), np.float32) if bias is None else bias
    return GemmPlan(name, integers, scale, 8, bias, bias, PerTokenInput())


def _plain(options: schema.AddOptionsT | schema.SubOptionsT) -> schema.AddOptionsT | schema.SubOptionsT:
    """Scales of int16 need not be powers of two."""
    options.potScaleInt16 = False
    return options
