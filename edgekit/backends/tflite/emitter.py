"""Writes DINOv2 as a TFLite graph, operator by operator; the `Gemms` handed in decide what is quantized.

No converter stands between: the float graph needs no torch export, the integers are the plan's by construction, and a
ViT-S takes a second instead of half a minute. Only operators that both tflite-runtime 2.14 and XNNPACK know are used.
Shapes: B batch (dynamic), N tokens, D width, H heads, F hidden width of the MLP; images are (B, height, width, 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.tflite.flatbuffer import Graph, Value
from edgekit.backends.tflite.heads import head_outputs

if TYPE_CHECKING:
    from edgekit.graph.heads import Head
    from edgekit.models.config import DinoV2Config
    from edgekit.plan.heads import HeadPlan

LAYER_NORM_EPS = 1e-6  # as edgekit.models.vit, which would load torch


class Gemms(Protocol):
    """Decides how each matrix product with fixed weights is computed. One graph serves all precisions."""

    def linear(self, graph: Graph, name: str, x: Value) -> Value:
        """(B, N, in) -> (B, N, out) of the linear layer with that module path, bias included."""
        ...

    def convolution(self, graph: Graph, name: str, pixels: Value, patch: int) -> Value:
        """(B, height, width, 3) -> (B, rows, columns, D): the patch embedding, bias included."""
        ...


def build_graph(
    writer: Writer,
    description: str,
    metadata: dict[str, str],
    heads: Mapping[str, Head] | None = None,
    head_plan: HeadPlan | None = None,
) -> bytes:
    """The export contract as a flatbuffer: `pixel_values` (B, height, width, 3) -> both outputs and the heads'.

    Args:
        writer: of the backbone.
        description: one line for whoever opens the file.
        metadata: text stored in the file under these names.
        heads: further outputs, by name.
        head_plan: their integers.
    """
    config, tensors = writer.config, writer.tensors
    height, width = (side * config.patch for side in config.grid)
    pixels = writer.graph.input(INPUT_NAME, (-1, height, width, 3))
    x, blocks = writer.embed(pixels), []  # (B, N, D)
    for i in range(config.depth):
        x = writer.block(f"blocks.{i}", x)
        blocks.append(x)
    if "unrotate" in tensors:
        x = writer.product("unrotate", x, writer.graph.constant("unrotate.weight", tensors["unrotate"].T))
    hidden = writer.norm("norm", x, OUTPUT_NAMES[0])
    outputs = dict(zip(OUTPUT_NAMES, (hidden, writer.pool(hidden)), strict=True))
    outputs |= head_outputs(writer, heads or {}, blocks, hidden, head_plan)
    return writer.graph.serialize({INPUT_NAME: pixels}, outputs, description, metadata)


class Writer:
    """Writes the modules of one model; every method takes and returns float32 values."""

    def __init__(
        self, config: DinoV2Config, tensors: Mapping[str, np.ndarray], gemms: Gemms, graph: Graph | None = None
    ) -> None:
        """For a model whose weight GEMMs are computed as `gemms` says.

        Args:
            config: of the baked model, whose `grid` is the image size in patches.
            tensors: float tensors as `edgekit.surgery.state_of` gives them.
            gemms: how weight GEMMs are computed.
            graph: to write to; None for a new one.
        """
        self.config, self.tensors, self.gemms, self.graph = config, tensors, gemms, graph or Graph()
        self.tokens = 1 + config.registers + config.grid[0] * config.grid[1]

    def embed(self, pixels: Value) -> Value:
        """(B, height, width, 3) -> (B, N, D).

        Room for CLS and registers is padded in front of the patches, then one addition brings the tokens and all
        positions in: no broadcast over a batch whose size is unknown.
        """
        c, prefix = self.config, 1 + self.config.registers
        x = self.gemms.convolution(self.graph, "patch_embed.proj", pixels, c.patch)
        x = self.reshape("patch_embed.tokens", x, (-1, self.tokens - prefix, c.width))
        paddings = self.graph.constant("prefix.paddings", np.array([[0, 0], [prefix, 0], [0, 0]], np.int32))
        x = self.graph.add("PAD", "patch_embed.padded", [x, paddings], self.row_shape(c.width))
        position = self.tensors["pos_embed"]  # (1, 1 + patches, D)
        parts = [self.tensors["cls_token"] + position[:, :1]]
        if c.registers:  # registers carry no position
            parts.append(self.tensors["register_tokens"])
        added = np.concatenate([*parts, position[:, 1:]], axis=1).astype(np.float32)  # (1, N, D)
        return self.plus("tokens", x, self.graph.constant("tokens.added", added))

    def block(self, name: str, x: Value) -> Value:
        """Pre-norm block; an absent LayerScale means it is folded."""
        branch = self.attention(f"{name}.attn", self.norm(f"{name}.norm1", x))
        x = self.plus(f"{name}.residual1", x, self.layer_scale(f"{name}.ls1", branch))
        branch = self.ffn(f"{name}.mlp", self.norm(f"{name}.norm2", x))
        return self.plus(f"{name}.residual2", x, self.layer_scale(f"{name}.ls2", branch))

    def norm(self, name: str, x: Value, output: str | None = None) -> Value:
        """LayerNorm of the module with that path."""
        return self.layer_norm(name, x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], output)

    def layer_norm(self, name: str, x: Value, weight: np.ndarray, bias: np.ndarray, output: str | None = None) -> Value:
        """Over the last axis, which TFLite has no operator for: (x - mean) / sqrt(var + eps) * w + b."""
        axis = self.graph.constant(f"{name}.axis", np.array([-1], np.int32))
        column = (*x.shape[:-1], 1)
        mean = self.graph.add("MEAN", f"{name}.mean", [x, axis], column, options=_keep_dims())
        centred = self.graph.add("SUB", f"{name}.centred", [x, mean], x.shape, options=schema.SubOptionsT())
        square = self.times(f"{name}.square", centred, centred)
        variance = self.graph.add("MEAN", f"{name}.variance", [square, axis], column, options=_keep_dims())
        variance = self.plus(f"{name}.variance_eps", variance, self.scalar(f"{name}.eps", LAYER_NORM_EPS))
        inverse = self.graph.add("RSQRT", f"{name}.rsqrt", [variance], column)
        normed = self.times(f"{name}.normed", centred, inverse)
        scaled = self.times(f"{name}.scaled", normed, self.graph.constant(f"{name}.weight", weight.ravel()))
        return self.plus(output or name, scaled, self.graph.constant(f"{name}.bias", bias.ravel()))

    def layer_scale(self, name: str, x: Value) -> Value:
        """LayerScale, unless folded away."""
        return self.times(name, x, self.row(f"{name}.gamma")) if f"{name}.gamma" in self.tensors else x

    def attention(self, name: str, x: Value) -> Value:
        """softmax(q k^T * scale) v of the packed projection: (B, N, D) -> (B, N, D)."""
        packed = self.gemms.linear(self.graph, f"{name}.qkv", x)  # (B, N, 3*D)
        q, k, v = (self.head(f"{name}.{p}", o) for p, o in zip("qkv", self.split(name, packed, 3), strict=True))
        mixed = self.attend(name, q, k, v, self.tensors[f"{name}.scale"].item())
        joined = self.transpose(f"{name}.join", mixed, (0, 2, 1, 3))
        return self.gemms.linear(self.graph, f"{name}.proj", self.reshape(f"{name}.mix", joined, x.shape))

    def attend(self, name: str, q: Value, k: Value, v: Value, scale: float) -> Value:
        """softmax(q k^T * scale) v, each (B, H, N, D/H)."""
        c, n = self.config, self.tokens
        if scale != 1:
            q = self.times(f"{name}.q_scaled", q, self.scalar(f"{name}.scale", scale))
        logits = self.matmul(f"{name}.logits", q, k, (-1, c.heads, n, n), transpose=True)
        softmax = schema.SoftmaxOptionsT()
        softmax.beta = 1.0
        shares = self.graph.add("SOFTMAX", f"{name}.probabilities", [logits], logits.shape, options=softmax)
        return self.matmul(f"{name}.weighted", shares, v, q.shape, transpose=False)

    def head(self, name: str, x: Value) -> Value:
        """(B, N, D) -> (B, H, N, D/H)."""
        c = self.config
        x = self.reshape(f"{name}.heads", x, (-1, self.tokens, c.heads, c.head_dim))
        return self.transpose(name, x, (0, 2, 1, 3))

    def ffn(self, name: str, x: Value) -> Value:
        """fc2(GELU(fc1 x)), or w3(silu(a) * b) of the giant model."""
        if self.config.ffn == "swiglu":
            x = self.gemms.linear(self.graph, f"{name}.w12", x)
            a, b = self.split(name, x, 2)
            gate = self.graph.add("LOGISTIC", f"{name}.sigmoid", [a], a.shape)
            gated = self.times(f"{name}.gated", self.times(f"{name}.silu", a, gate), b)
            return self.gemms.linear(self.graph, f"{name}.w3", gated)
        x = self.gemms.linear(self.graph, f"{name}.fc1", x)
        x = self.graph.add("GELU", f"{name}.gelu", [x], x.shape, options=schema.GeluOptionsT())  # exact, by erf
        if f"{name}.fc2_gain" in self.tensors:
            x = self.times(f"{name}.fc2_gain/scaled", x, self.row(f"{name}.fc2_gain"))
        return self.gemms.linear(self.graph, f"{name}.fc2", x)

    def pool(self, hidden: Value) -> Value:
        """The CLS token: (B, N, D) -> (B, D)."""
        width = self.config.width
        x = self.graph.tokens("pooler", hidden, 0, 1)
        return self.reshape(OUTPUT_NAMES[1], x, (-1, width))

    def product(self, name: str, x: Value, weight: Value) -> Value:
        """x W^T without bias, W (out, in)."""
        shape = (*x.shape[:-1], weight.shape[0])
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        return self.graph.add("FULLY_CONNECTED", name, [x, weight], shape, options=options, version=5)

    def matmul(self, name: str, a: Value, b: Value, shape: tuple[int, ...], *, transpose: bool) -> Value:
        """Batched product, of b transposed if so said."""
        options = schema.BatchMatMulOptionsT()
        options.adjY = transpose
        return self.graph.add("BATCH_MATMUL", name, [a, b], shape, options=options)

    def split(self, name: str, x: Value, parts: int) -> list[Value]:
        """Equal parts along the channels."""
        options = schema.SplitOptionsT()
        options.numSplits = parts
        shape = (*x.shape[:-1], x.shape[-1] // parts)
        axis = self.graph.constant(f"{name}.split_axis", np.array(2, np.int32))
        names = [f"{name}.part{i}" for i in range(parts)]
        return self.graph.add_several("SPLIT", names, [axis, x], [shape] * parts, options)

    def reshape(self, name: str, x: Value, shape: tuple[int, ...]) -> Value:
        """-1 for the batch."""
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        target = self.graph.constant(f"{name}.shape", np.array(shape, np.int32))
        return self.graph.add("RESHAPE", name, [x, target], shape, options=options)

    def transpose(self, name: str, x: Value, order: tuple[int, ...]) -> Value:
        """Permute the axes."""
        permutation = self.graph.constant(f"{name}.order", np.array(order, np.int32))
        shape = tuple(x.shape[axis] for axis in order)
        return self.graph.add("TRANSPOSE", name, [x, permutation], shape, options=schema.TransposeOptionsT())

    def plus(self, name: str, a: Value, b: Value) -> Value:
        """a + b, b broadcast."""
        return self.graph.add("ADD", name, [a, b], a.shape, options=schema.AddOptionsT())

    def times(self, name: str, a: Value, b: Value) -> Value:
        """a * b, b broadcast."""
        return self.graph.add("MUL", name, [a, b], a.shape, options=schema.MulOptionsT())

    def row(self, key: str) -> Value:
        """A per-channel tensor."""
        return self.graph.constant(key, self.tensors[key].ravel())

    def scalar(self, name: str, value: float) -> Value:
        """A constant of one element."""
        return self.graph.constant(name, np.array([value], np.float32))

    def row_shape(self, channels: int) -> tuple[int, ...]:
        """(B, N, channels)."""
        return (-1, self.tokens, channels)


def _keep_dims() -> schema.ReducerOptionsT:
    options = schema.ReducerOptionsT()
    options.keepDims = True
    return options
