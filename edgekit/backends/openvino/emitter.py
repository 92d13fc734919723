"""Writes DINOv2 as an `openvino.Model`, operation by operation, with friendly names that follow the module paths.

No converter stands between: the names are the plan's names, every node is named by us (OpenVINO's own counters would
make the bytes depend on what else the process did), and the `Gemms` handed in decide what is quantized.
Shapes: B batch (dynamic), N tokens, D width, H heads, F hidden width of the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import openvino as ov
from openvino import opset13 as op

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES

if TYPE_CHECKING:
    from edgekit.graph.heads import Head
    from edgekit.models.config import DinoV2Config
    from edgekit.plan.heads import HeadPlan

LAYER_NORM_EPS = 1e-6  # as edgekit.models.vit, which would load torch


class Gemms(Protocol):
    """Decides how each matrix product is computed: float, weight-only or integer. One graph serves all precisions."""

    def linear(self, name: str, x: ov.Output) -> ov.Output:
        """(B, N, in) -> (B, N, out) of the linear layer with that module path, bias included."""
        ...

    def convolution(self, name: str, pixels: ov.Output, patch: int) -> ov.Output:
        """(B, 3, height, width) -> (B, D, rows, columns): the patch embedding, bias included."""
        ...

    def attention(self, name: str, q: ov.Output, k: ov.Output, v: ov.Output, scale: float) -> ov.Output:
        """softmax(q k^T * scale) v for q, k, v of (B, H, N, D/H)."""
        ...


class FloatGemms:
    """Every product in float32, with weights and biases straight from the model's tensors."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors = tensors

    def linear(self, name: str, x: ov.Output) -> ov.Output:
        """MatMul + Add."""
        return self.product(name, x, self.weight(name), self.bias(name))

    def product(self, name: str, x: ov.Output, weight: ov.Output, bias: ov.Output) -> ov.Output:
        """x W^T + b under the module's name."""
        x = op.matmul(x, weight, False, True, name=name).output(0)
        return op.add(x, bias, name=f"{name}/bias").output(0)

    def convolution(self, name: str, pixels: ov.Output, patch: int) -> ov.Output:
        """Convolution + Add, kernel and stride of one patch."""
        stride, none = [patch, patch], [0, 0]
        x = op.convolution(pixels, self.weight(name), stride, none, none, [1, 1], name=name).output(0)
        return op.add(x, self.bias(name, (1, -1, 1, 1)), name=f"{name}/bias").output(0)

    def attention(self, name: str, q: ov.Output, k: ov.Output, v: ov.Output, scale: float) -> ov.Output:
        """One ScaledDotProductAttention, which the CPU plugin compiles into one fused kernel."""
        factor, no_mask = constant(np.float32(scale), f"{name}.scale"), constant(np.float32(0), f"{name}.no_mask")
        return op.scaled_dot_product_attention(q, k, v, no_mask, factor, name=f"{name}.sdpa").output(0)

    def weight(self, name: str) -> ov.Output:
        """Float32 weights: (out, in), or (D, 3, patch, patch) of the patch embedding."""
        return constant(self.tensors[f"{name}.weight"], f"{name}.weight")

    def bias(self, name: str, shape: tuple[int, ...] = (1, 1, -1)) -> ov.Output:
        """Float32 bias."""
        return constant(self.tensors[f"{name}.bias"].reshape(shape), f"{name}.bias")


def constant(value: np.ndarray | np.generic, name: str) -> ov.Output:
    """A constant that owns its data."""
    return op.constant(np.asarray(value, order="C"), name=name).output(0)


def build_model(writer: Writer, heads: Mapping[str, Head] | None = None, head_plan: HeadPlan | None = None) -> ov.Model:
    """The export contract as graph: `pixel_values` (B, 3, height, width) -> the contract's outputs and the heads'."""
    from edgekit.backends.openvino.heads import head_outputs

    config, tensors = writer.config, writer.tensors
    pixels = op.parameter([-1, 3, *(side * config.patch for side in config.grid)], np.float32, name=INPUT_NAME)
    pixels.output(0).get_tensor().set_names({INPUT_NAME})
    x, blocks = writer.embed(pixels.output(0)), []  # (B, N, D)
    for i in range(config.depth):
        x = writer.block(f"blocks.{i}", x)
        blocks.append(x)
    if "unrotate" in tensors:
        x = op.matmul(x, constant(tensors["unrotate"], "unrotate.weight"), False, False, name="unrotate").output(0)
    hidden = writer.norm("norm", x)
    pooled = op.gather(hidden, _index(0, "pooler.index"), _index(1, "pooler.axis"), name="pooler").output(0)
    outputs = dict(zip(OUTPUT_NAMES, (hidden, pooled), strict=True))
    outputs |= head_outputs(heads or {}, blocks, hidden, tensors, config, head_plan)
    for name, output in outputs.items():
        output.get_tensor().set_names({name})
    results = [op.result(output, name=f"{name}/result") for name, output in outputs.items()]
    return ov.Model(results, [pixels], "dinov2")


def _index(value: int | list[int], name: str) -> ov.Output:
    return constant(np.array(value, np.int64), name)


class Writer:
    """Writes the modules of one model; every method takes and returns a node output, float32."""

    def __init__(self, config: DinoV2Config, tensors: Mapping[str, np.ndarray], gemms: Gemms) -> None:
        """For a baked model.

        Args:
            config: its `grid` is the image size in patches.
            tensors: float tensors as `edgekit.surgery.state_of` gives them.
            gemms: how weight GEMMs and attention products are computed.
        """
        self.config, self.tensors, self.gemms = config, tensors, gemms

    def embed(self, pixels: ov.Output) -> ov.Output:
        """(B, 3, height, width) -> (B, N, D): patches plus position, behind a constant CLS + position and registers."""
        c = self.config
        x = self.gemms.convolution("patch_embed.proj", pixels, c.patch)
        position = self.tensors["pos_embed"]  # (1, 1 + patches, D)
        rows, columns = c.grid
        x = op.reshape(x, _index([0, c.width, rows * columns], "patch_embed.shape"), True, name="patch_embed.flatten")
        x = op.transpose(x, _index([0, 2, 1], "patch_embed.order"), name="patch_embed.tokens").output(0)
        x = op.add(x, constant(position[:, 1:], "pos_embed.patches"), name="patch_embed/pos_embed").output(0)
        prefix = [self.tensors["cls_token"] + position[:, :1]]
        if c.registers:  # registers carry no position
            prefix.append(self.tensors["register_tokens"])
        tokens = constant(np.concatenate(prefix, axis=1).astype(np.float32), "prefix_tokens")  # (1, 1 + R, D)
        shape = op.shape_of(x, name="tokens.shape")
        batch = op.gather(shape, _index([0], "batch.index"), _index(0, "batch.axis"), name="batch")
        shape = op.concat([batch, _index([1 + c.registers, c.width], "prefix_shape.tail")], 0, name="prefix_shape")
        tokens = op.broadcast(tokens, shape, name="prefix").output(0)
        return op.concat([tokens, x], 1, name="tokens").output(0)

    def block(self, name: str, x: ov.Output) -> ov.Output:
        """Pre-norm block; an absent LayerScale means it is folded."""
        branch = self.attention(f"{name}.attn", self.norm(f"{name}.norm1", x))
        x = op.add(x, self.layer_scale(f"{name}.ls1", branch), name=f"{name}.residual1").output(0)
        branch = self.ffn(f"{name}.mlp", self.norm(f"{name}.norm2", x))
        return op.add(x, self.layer_scale(f"{name}.ls2", branch), name=f"{name}.residual2").output(0)

    def norm(self, name: str, x: ov.Output) -> ov.Output:
        """LayerNorm over the last axis."""
        x = op.mvn(x, _index([-1], f"{name}.axes"), True, LAYER_NORM_EPS, "inside_sqrt", name=f"{name}.mvn").output(0)
        x = op.multiply(x, self.row(f"{name}.weight"), name=f"{name}/weight").output(0)
        return op.add(x, self.row(f"{name}.bias"), name=name).output(0)

    def row(self, key: str) -> ov.Output:
        """A per-channel tensor as (1, 1, C) constant."""
        return constant(self.tensors[key].reshape(1, 1, -1), key)

    def layer_scale(self, name: str, x: ov.Output) -> ov.Output:
        """LayerScale, unless folded away."""
        if f"{name}.gamma" not in self.tensors:
            return x
        return op.multiply(x, self.row(f"{name}.gamma"), name=name).output(0)

    def attention(self, name: str, x: ov.Output) -> ov.Output:
        """Packed projection, softmax(q k^T * scale) v, output projection: (B, N, D) -> (B, N, D)."""
        return self.gemms.linear(f"{name}.proj", self.mix(name, self.gemms.linear(f"{name}.qkv", x)))

    def mix(self, name: str, packed: ov.Output) -> ov.Output:
        """softmax(q k^T * scale) v: (B, N, 3 * D) -> (B, N, D)."""
        c = self.config
        lengths = _index([c.width] * 3, f"{name}.split_lengths")
        parts = op.variadic_split(packed, _index(2, f"{name}.split_axis"), lengths, name=f"{name}.split").outputs()
        q, k, v = (self.head(f"{name}.{part}", o) for part, o in zip("qkv", parts, strict=True))
        mixed = self.gemms.attention(name, q, k, v, self.tensors[f"{name}.scale"].item())  # (B, H, N, D/H)
        joined = op.transpose(mixed, _index([0, 2, 1, 3], f"{name}.join_order"), name=f"{name}.join")
        return op.reshape(joined, _index([0, 0, c.width], f"{name}.join_shape"), True, name=f"{name}.mix").output(0)

    def head(self, name: str, x: ov.Output) -> ov.Output:
        """(B, N, D) -> (B, H, N, D/H)."""
        c = self.config
        x = op.reshape(x, _index([0, 0, c.heads, c.head_dim], f"{name}.shape"), True, name=f"{name}.heads").output(0)
        return op.transpose(x, _index([0, 2, 1, 3], f"{name}.order"), name=name).output(0)

    def ffn(self, name: str, x: ov.Output) -> ov.Output:
        """fc2(GELU(fc1 x)), or w3(silu(a) * b) of the giant model."""
        c = self.config
        if c.ffn == "mlp":
            x = self.gemms.linear(f"{name}.fc1", x)
            x = op.gelu(x, "erf", name=f"{name}.gelu").output(0)
            if f"{name}.fc2_gain" in self.tensors:
                x = op.multiply(x, self.row(f"{name}.fc2_gain"), name=f"{name}.fc2_gain/scaled").output(0)
            return self.gemms.linear(f"{name}.fc2", x)
        x = self.gemms.linear(f"{name}.w12", x)
        a, b = op.split(x, _index(2, f"{name}.split_axis"), 2, name=f"{name}.split").outputs()
        x = op.multiply(op.swish(a, name=f"{name}.silu"), b, name=f"{name}.gated").output(0)
        return self.gemms.linear(f"{name}.w3", x)
