"""The network's operations as OpenVINO nodes, with friendly names that follow the module paths.

No converter stands between: the names are the plan's names, and every node is named by us.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
from openvino import opset13 as op
from typing_extensions import override

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.openvino.builder import constant, ints
from edgekit.backends.openvino.heads import OpenVinoHeadEmitter
from edgekit.backends.openvino.sizes import OpenVinoArithmetic
from edgekit.graph.backbone import emit_backbone
from edgekit.graph.emitter import Activation
from edgekit.graph.heads import emit_heads
from edgekit.graph.sizes import Places
from edgekit.plan.heads import HEADS

if TYPE_CHECKING:
    from edgekit.graph.heads import Head


class OpenVinoEmitter(OpenVinoHeadEmitter):
    """`edgekit.graph.emitter.Emitter` on node outputs, all of them float32."""

    places: Places[ov.Output]  # of the patches, where images may be of any size

    @override
    def measure(self, pixels: ov.Output) -> None:
        if self.sides is not None:
            arithmetic = OpenVinoArithmetic()
            self.counts = arithmetic.patch_counts(pixels, self.config.patch)
            self.places = Places(arithmetic, self.config, *arithmetic.floats(self.counts))

    @override
    def prepend_tokens(self, patches: ov.Output) -> ov.Output:
        x, width = patches, self.config.width
        if self.learned_positions:
            table = self.patch_positions
            positions = self.places.positions(table) if self.sides else constant(table, "pos_embed.patches")
            x = op.add(patches, positions, name="patch_embed/pos_embed").output(0)
        tokens = constant(self.prefix_tokens.astype(np.float32), "prefix_tokens")  # (1, 1 + R, D)
        shape = op.shape_of(x, name="tokens.shape")
        batch = op.gather(shape, ints([0], "batch.index"), ints(0, "batch.axis"), name="batch")
        shape = op.concat([batch, ints([self.prefix, width], "prefix_shape.tail")], 0, name="prefix_shape")
        tokens = op.broadcast(tokens, shape, name="prefix").output(0)  # (B, 1 + R, D)
        return op.concat([tokens, x], 1, name="tokens").output(0)

    @override
    def split_heads(self, name: str, packed: ov.Output) -> tuple[ov.Output, ov.Output, ov.Output]:
        lengths = ints([self.config.width] * 3, f"{name}.split_lengths")
        parts = op.variadic_split(packed, ints(2, f"{name}.split_axis"), lengths, name=f"{name}.split").outputs()
        q, k, v = (self._per_head(f"{name}.{part}", x) for part, x in zip("qkv", parts, strict=True))
        return q, k, v

    def _per_head(self, name: str, x: ov.Output) -> ov.Output:
        """Split channels into attention heads: (B, N, D) -> (B, H, N, d)."""
        shape = ints([0, 0, self.config.heads, self.config.head_dim], f"{name}.shape")
        x = op.reshape(x, shape, True, name=f"{name}.heads").output(0)  # (B, N, H, d)
        return op.transpose(x, ints([0, 2, 1, 3], f"{name}.order"), name=name).output(0)

    @cached_property
    def _tables(self) -> list[ov.Output]:
        """cos and sin (N, d), once for all blocks."""
        if self.sides is not None:
            return list(self.places.tables)
        return [constant(table, f"rope.{part}") for part, table in zip(("cos", "sin"), self.rotation, strict=True)]

    @override
    def turn(self, name: str, x: ov.Output, shift: np.ndarray | None) -> ov.Output:
        cos, sin = self._tables
        halves = op.split(x, ints(3, f"{name}.halves_axis"), 2, name=f"{name}.halves").outputs()
        swapped = op.concat(halves[::-1], 3, name=f"{name}.swapped")
        straight = op.multiply(x, cos, name=f"{name}.straight")
        across = op.multiply(swapped, sin, name=f"{name}.across")
        turned = op.add(straight, across, name=f"{name}.turned").output(0)
        if shift is None:
            return turned
        return op.add(turned, constant(shift, f"{name}.shift"), name=f"{name}.shifted").output(0)

    @override
    def join_heads(self, name: str, x: ov.Output) -> ov.Output:
        joined = op.transpose(x, ints([0, 2, 1, 3], f"{name}.join_order"), name=f"{name}.join")  # (B, N, H, d)
        shape = ints([0, 0, self.config.width], f"{name}.join_shape")
        return op.reshape(joined, shape, True, name=f"{name}.mix").output(0)

    @override
    def scale_channels(self, x: ov.Output, key: str, name: str) -> ov.Output:
        return op.multiply(x, self._per_channel(self.tensors[key], 3, key), name=name).output(0)

    @override
    def swiglu(self, x: ov.Output, name: str) -> ov.Output:
        gate, value = op.split(x, ints(2, f"{name}.split_axis"), 2, name=f"{name}.split").outputs()  # (B, N, F) each
        return op.multiply(op.swish(gate, name=f"{name}.silu"), value, name=f"{name}.gated").output(0)

    @override
    def add(self, a: ov.Output, b: ov.Output, name: str = "") -> ov.Output:
        return op.add(a, b, name=name or self.name_of("add")).output(0)

    @override
    def layer_norm(self, x: ov.Output, weight: np.ndarray, bias: np.ndarray, name: str = "") -> ov.Output:
        axes, epsilon = self.ints([-1], name and f"{name}.axes"), self.config.norm_eps
        mvn = op.mvn(x, axes, True, epsilon, "inside_sqrt", name=f"{name}.mvn" if name else self.name_of("mvn"))
        x = mvn.output(0)
        rank = len(x.get_partial_shape())  # 3 of tokens, 2 of a vector
        gain = self._per_channel(weight, rank, name and f"{name}.weight")
        x = op.multiply(x, gain, name=f"{name}/weight" if name else self.name_of("multiply"))
        return self.add(x, self._per_channel(bias, rank, name and f"{name}.bias"), name)

    @override
    def matmul(self, x: ov.Output, matrix: np.ndarray, name: str = "") -> ov.Output:
        weight = self.number(matrix, name and f"{name}.weight")
        return op.matmul(x, weight, False, False, name=name or self.name_of("matmul")).output(0)

    @override
    def activate(self, x: ov.Output, function: Activation, name: str = "") -> ov.Output:
        name = name or self.name_of(function)
        match function:
            case "relu":
                return op.relu(x, name=name).output(0)
            case "gelu":
                return op.gelu(x, "erf", name=name).output(0)
            case "sigmoid":
                return op.sigmoid(x, name=name).output(0)

    @override
    def class_token(self, tokens: ov.Output, name: str = "") -> ov.Output:
        place, axis = self.ints(0, name and f"{name}.index"), self.ints(1, name and f"{name}.axis")
        return op.gather(tokens, place, axis, name=name or self.name_of("gather")).output(0)

    def _per_channel(self, value: np.ndarray, rank: int, name: str) -> ov.Output:
        """A number per channel as constant (1, ..., 1, C) of that rank."""
        return self.number(value.reshape(*[1] * (rank - 1), -1), name)


def model_of(e: OpenVinoEmitter, heads: Mapping[str, Head] | None = None) -> ov.Model:
    """The export contract: `pixel_values` (B, 3, H, W) -> `last_hidden_state`, `pooler_output` and the heads'.

    Args:
        e: an emitter that has written nothing yet.
        heads: further outputs, by name.
    """
    config, heads = e.config, heads or {}
    sides = [ov.Dimension(*e.sides)] * 2 if e.sides else [side * config.patch for side in config.grid]
    pixels = op.parameter(ov.PartialShape([-1, 3, *sides]), np.float32, name=INPUT_NAME)
    pixels.output(0).get_tensor().set_names({INPUT_NAME})
    backbone = emit_backbone(e, pixels.output(0))
    outputs = dict(zip(OUTPUT_NAMES, (backbone.hidden, backbone.pooled), strict=True))
    for name, x in emit_heads(e, heads, backbone.blocks, backbone.hidden).items():
        wanted = (-1, *heads[name].shape(e.grid))
        shape = e.shape(*wanted) if e.sides else ints(list(wanted), f"{HEADS}{name}/shape")
        outputs[name] = op.reshape(x, shape, False, name=f"{HEADS}{name}").output(0)
    for name, output in outputs.items():
        output.get_tensor().set_names({name})
    results = [op.result(output, name=f"{name}/result") for name, output in outputs.items()]
    return ov.Model(results, [pixels], "dinov2")
