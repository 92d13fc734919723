"""The network as TFLite operators.

No converter stands between: the float graph needs no torch export, the integers are the plan's by construction, and a
ViT-S takes a second instead of half a minute. Only operators that both tflite-runtime 2.14 and XNNPACK know are used.
Values are (B, N, D) for tokens as in the reference model, but (B, rows, columns, C) for images and maps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from typing_extensions import override

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.tflite.builder import OperatorBuilder
from edgekit.backends.tflite.flatbuffer import Value
from edgekit.backends.tflite.heads import TfliteHeadEmitter
from edgekit.graph.backbone import emit_backbone
from edgekit.graph.emitter import Activation, BackboneEmitter
from edgekit.graph.heads import emit_heads

if TYPE_CHECKING:
    from edgekit.graph.heads import Head

_FUNCTIONS = {"relu": ("RELU", None), "gelu": ("GELU", schema.GeluOptionsT), "sigmoid": ("LOGISTIC", None)}


class TfliteBackboneEmitter(BackboneEmitter[Value]):
    """Backbone operations that float and int16 graphs share; `builder` decides the number type."""

    builder: OperatorBuilder

    @override
    def prepend_tokens(self, patches: Value) -> Value:
        """Zeros are padded in front of the patches, then one addition brings in the tokens and all positions.

        So nothing is broadcast over a batch whose size is unknown.
        """
        around = self.builder.graph.constant("prefix.paddings", np.array([[0, 0], [self.prefix, 0], [0, 0]], np.int32))
        shape = (-1, self.tokens, self.config.width)
        x = self.builder.op("PAD", "patch_embed.padded", [patches, around], shape, scale=patches)
        added = np.concatenate([self.prefix_tokens, self.patch_positions], axis=1)  # (1, N, D)
        return self.builder.add("tokens", x, self.builder.number("tokens.added", added))

    @override
    def split_heads(self, name: str, packed: Value) -> tuple[Value, Value, Value]:
        q, k, v = (
            self._split_head(f"{name}.{part}", x)
            for part, x in zip("qkv", self.builder.split(name, packed, 3), strict=True)
        )
        return q, k, v

    def _split_head(self, name: str, x: Value) -> Value:
        """Split channels into attention heads: (B, N, D) -> (B, H, N, d)."""
        apart = (-1, self.tokens, self.config.heads, self.config.head_dim)
        return self.builder.transpose(name, self.builder.reshape(f"{name}.heads", x, apart), (0, 2, 1, 3))

    @cached_property
    def _tables(self) -> list[Value]:
        """cos and sin (N, d), one constant each for all blocks."""
        return [
            self.builder.number(f"rope.{part}", table)
            for part, table in zip(("cos", "sin"), self.rotation, strict=True)
        ]

    @override
    def turn(self, name: str, x: Value, shift: np.ndarray | None) -> Value:
        builder, (cos, sin) = self.builder, self._tables
        low, high = builder.split(f"{name}.halves", x, 2)
        swapped = builder.join(f"{name}.swapped", [high, low])
        straight = builder.mul(f"{name}.straight", x, cos)
        across = builder.mul(f"{name}.across", swapped, sin)
        turned = builder.add(f"{name}.turned", straight, across)
        return (
            turned if shift is None else builder.add(f"{name}.shifted", turned, builder.number(f"{name}.shift", shift))
        )

    @override
    def join_heads(self, name: str, x: Value) -> Value:
        x = self.builder.transpose(f"{name}.join", x, (0, 2, 1, 3))  # (B, N, H, d)
        return self.builder.reshape(f"{name}.mix", x, (-1, self.tokens, self.config.width))

    @override
    def scale_channels(self, x: Value, key: str, name: str) -> Value:
        return self.builder.mul(name, x, self.builder.number(key, self.tensors[key].ravel()))

    @override
    def swiglu(self, x: Value, name: str) -> Value:
        gate, value = self.builder.split(name, x, 2)
        silu = self.builder.mul(f"{name}.silu", gate, self.builder.sigmoid(f"{name}.sigmoid", gate))
        return self.builder.mul(f"{name}.gated", silu, value)

    @override
    def add(self, a: Value, b: Value, name: str = "") -> Value:
        return self.builder.add(name or self.name_of("add"), a, b)

    @override
    def layer_norm(self, x: Value, weight: np.ndarray, bias: np.ndarray, name: str = "") -> Value:
        """Over the last axis, in parts: TFLite has no operator for it."""
        name = name or self.name_of("norm")
        builder = self.builder
        axis = builder.graph.constant(f"{name}.axis", np.array([-1], np.int32))
        inputs = [x, builder.mean(f"{name}.mean", x, axis)]
        centred = builder.op("SUB", f"{name}.centred", inputs, x.shape, options=schema.SubOptionsT())
        inverse, gain = self.inverse_deviation(name, centred, axis)
        normed = builder.mul(f"{name}.normed", centred, inverse)
        scaled = builder.mul(f"{name}.scaled", normed, builder.number(f"{name}.weight", weight.ravel() * gain))
        return builder.add(name, scaled, builder.number(f"{name}.bias", bias.ravel()))

    @abstractmethod
    def inverse_deviation(self, name: str, centred: Value, axis: Value) -> tuple[Value, float]:
        """1 / sqrt(variance + epsilon) of each token, up to a constant factor that the norm's weight brings in.

        Args:
            name: of the norm.
            centred: (B, N, C), each token less its mean.
            axis: the constant -1, for reductions.

        Returns:
            (B, N, 1), and the factor.
        """

    @override
    def class_token(self, tokens: Value, name: str = "") -> Value:
        name = name or self.name_of("class_token")
        return self.builder.reshape(f"{name}.row", self.builder.tokens(name, tokens, 0, 1), (-1, tokens.shape[2]))


class TfliteEmitter(TfliteBackboneEmitter, TfliteHeadEmitter):
    """`edgekit.graph.emitter.Emitter` on float32 values of a graph in the making."""

    @override
    def inverse_deviation(self, name: str, centred: Value, axis: Value) -> tuple[Value, float]:
        builder = self.builder
        variance = builder.mean(f"{name}.variance", builder.mul(f"{name}.square", centred, centred), axis)
        epsilon = builder.scalar(f"{name}.eps", self.config.norm_eps)
        variance = builder.add(f"{name}.variance_eps", variance, epsilon)
        return builder.op("RSQRT", f"{name}.rsqrt", [variance], variance.shape), 1.0

    @override
    def matmul(self, x: Value, matrix: np.ndarray, name: str = "") -> Value:
        name = name or self.name_of("matmul")
        return self.builder.fully_connected(name, [x, self.builder.number(f"{name}.weight", matrix.T)])

    @override
    def activate(self, x: Value, function: Activation, name: str = "") -> Value:
        name, (operator, options) = name or self.name_of(function), _FUNCTIONS[function]
        return self.builder.op(operator, name, [x], x.shape, options=options() if options else None)


def model_of(
    e: TfliteEmitter, description: str, metadata: Mapping[str, str], heads: Mapping[str, Head] | None = None
) -> bytes:
    """The export contract as a flatbuffer: `pixel_values` (B, H, W, 3) -> both outputs and the heads'.

    Args:
        e: an emitter that has written nothing yet.
        description: one line for whoever opens the file.
        metadata: text stored in the file under these names.
        heads: further outputs, by name.
    """
    height, width = (side * e.config.patch for side in e.config.grid)
    pixels = e.graph.input(INPUT_NAME, (-1, height, width, 3))
    backbone = emit_backbone(e, pixels)
    outputs = dict(zip(OUTPUT_NAMES, (backbone.hidden, backbone.pooled), strict=True))
    for name, x in outputs.items():
        e.graph.rename(x, name)
    for name, x in emit_heads(e, heads or {}, backbone.blocks, backbone.hidden).items():
        outputs[name] = e.head_output(name, x, (heads or {})[name].shape(e.config.grid))
    return e.graph.serialize({INPUT_NAME: pixels}, outputs, description, metadata)
