"""The network's operations as ONNX nodes: clean names, exact control, the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass
from typing_extensions import override

from edgekit import __version__
from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.onnx.builder import contract_value
from edgekit.backends.onnx.heads import OnnxHeadEmitter
from edgekit.backends.onnx.sizes import OnnxArithmetic, patch_counts
from edgekit.graph.backbone import emit_backbone
from edgekit.graph.emitter import Activation
from edgekit.graph.heads import emit_heads
from edgekit.graph.sizes import Places, dimension

if TYPE_CHECKING:
    from edgekit.graph.heads import Head

OPSET = 20  # the first with Gelu; LayerNormalization came with 17
IR_VERSIONS = {20: 9, 21: 10}  # opset -> IR version of the ONNX release that brought it (1.15, 1.16)
_FUNCTIONS = {"relu": "Relu", "gelu": "Gelu", "sigmoid": "Sigmoid"}


class OnnxEmitter(OnnxHeadEmitter):
    """`edgekit.graph.emitter.Emitter` on values of a graph in the making; heads are float32 behind any backbone."""

    places: Places[ir.Value]  # of the patches, where images may be of any size

    @override
    def measure(self, pixels: ir.Value) -> None:
        if self.sides is not None:
            self.arithmetic = OnnxArithmetic(self.graph)
            self.counts = patch_counts(self.graph, pixels, self.config.patch)
            self.places = Places(self.arithmetic, self.config, *self.arithmetic.patch_grid(self.counts))

    @override
    def prepend_tokens(self, patches: ir.Value) -> ir.Value:
        graph = self.graph
        batch = graph.node("Shape", [patches], "batch/Shape", {"start": 0, "end": 1})
        each = graph.node("Concat", [batch, graph.ints(1, 1)], "batch/Concat", {"axis": 0})  # [B, 1, 1]
        if self.sides is not None:
            return self._prepend_placed(each, patches)
        cls = graph.node("Expand", [self.weight("cls_token"), each], "cls_token/Expand")  # (B, 1, D)
        if not self.learned_positions:
            return self._prepend_unplaced(cls, each, patches)
        tokens = graph.node("Concat", [cls, patches], "cls_token/Concat", {"axis": 1})
        tokens = graph.node("Add", [tokens, self.weight("pos_embed")], "pos_embed/Add")
        if self.config.registers:  # which carry no position
            registers = graph.node(
                "Expand", [self.weight("register_tokens"), each], "register_tokens/Expand"
            )  # (B, R, D)
            outputs = ("register_tokens/Split.cls", "register_tokens/Split.patches")
            cls, patches = graph.split(tokens, (1, self.tokens - self.prefix), 1, "register_tokens/Split", outputs)
            tokens = graph.node("Concat", [cls, registers, patches], "register_tokens/Concat", {"axis": 1})
        return tokens

    def _prepend_placed(self, each: ir.Value, patches: ir.Value) -> ir.Value:
        """Tokens of images of any size; `each` is [B, 1, 1]."""
        graph = self.graph
        prefix = graph.node("Expand", [graph.constant("prefix_tokens", self.prefix_tokens), each], "prefix/Expand")
        if self.learned_positions:
            positions = self.arithmetic.narrowed(self.places.positions(self.patch_positions))
            patches = graph.node("Add", [patches, positions], "pos_embed/Add")
        return graph.node("Concat", [prefix, patches], "tokens/Concat", {"axis": 1})

    def _prepend_unplaced(self, cls: ir.Value, each: ir.Value, patches: ir.Value) -> ir.Value:
        """Tokens of a model that adds no positions; `each` is [B, 1, 1]."""
        parts = [cls]
        if self.config.registers:
            stored = self.weight("register_tokens")
            parts.append(self.graph.node("Expand", [stored, each], "register_tokens/Expand"))  # (B, R, D)
        return self.graph.node("Concat", [*parts, patches], "tokens/Concat", {"axis": 1})

    @override
    def split_heads(self, name: str, packed: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        graph, config = self.graph, self.config
        shape = graph.ints(0, 0, 3, config.heads, config.head_dim)
        apart = graph.node("Reshape", [packed, shape], f"{name}.qkv/Reshape")  # (B, N, 3, H, d)
        apart = graph.node("Transpose", [apart], f"{name}.qkv/Transpose", {"perm": [2, 0, 3, 1, 4]})  # (3, B, H, N, d)
        q, k, v = (
            graph.node("Gather", [apart, graph.index(i)], f"{name}.{part}/Gather", {"axis": 0})
            for i, part in enumerate("qkv")
        )
        return q, k, v

    @override
    def turn(self, name: str, x: ir.Value, shift: np.ndarray | None) -> ir.Value:
        graph, half = self.graph, self.config.head_dim // 2
        cos, sin = self._tables
        halves = graph.split(x, (half, half), -1, f"{name}.halves/Split", (f"{name}.low", f"{name}.high"))
        swapped = graph.node("Concat", halves[::-1], f"{name}.swapped/Concat", {"axis": -1})
        straight = graph.node("Mul", [x, cos], f"{name}.straight/Mul")
        across = graph.node("Mul", [swapped, sin], f"{name}.across/Mul")
        turned = graph.node("Add", [straight, across], f"{name}.turned/Add")
        if shift is None:
            return turned
        return graph.node("Add", [turned, graph.constant(f"{name}.shift", shift)], f"{name}.shifted/Add")

    @cached_property
    def _tables(self) -> list[ir.Value]:
        """cos and sin (N, d), once for all blocks."""
        if self.sides is not None:
            return [self.arithmetic.narrowed(table) for table in self.places.tables]
        named = zip(("cos", "sin"), self.rotation, strict=True)
        return [self.graph.constant(f"rope.{part}", table) for part, table in named]

    @override
    def join_heads(self, name: str, x: ir.Value) -> ir.Value:
        x = self.graph.node("Transpose", [x], f"{name}.mix/Transpose", {"perm": [0, 2, 1, 3]})  # (B, N, H, d)
        return self.graph.node("Reshape", [x, self.graph.ints(0, 0, self.config.width)], f"{name}.mix/Reshape")

    @override
    def scale_channels(self, x: ir.Value, key: str, name: str) -> ir.Value:
        return self._node("Mul", [x, self.weight(key)], name)

    @override
    def swiglu(self, x: ir.Value, name: str) -> ir.Value:
        width = self.config.ffn_hidden
        outputs = (f"{name}.gate", f"{name}.value")
        gate, value = self.graph.split(x, (width, width), -1, f"{name}.w12/Split", outputs)
        sigmoid = self._node("Sigmoid", [gate], f"{name}.gate")
        silu = self._node("Mul", [gate, sigmoid], f"{name}.gate")
        return self._node("Mul", [silu, value], f"{name}.value")

    @override
    def add(self, a: ir.Value, b: ir.Value, name: str = "") -> ir.Value:
        return self._node("Add", [a, b], name)

    @override
    def layer_norm(self, x: ir.Value, weight: np.ndarray, bias: np.ndarray, name: str = "") -> ir.Value:
        inputs = [
            self._head_type(x),
            self.number(weight, name and f"{name}.weight"),
            self.number(bias, name and f"{name}.bias"),
        ]
        y = self._node("LayerNormalization", inputs, name, {"axis": -1, "epsilon": self.config.norm_eps})
        return (
            self.graph.node("Cast", [y], "norm/Cast", {"to": ir.DataType.FLOAT})
            if name == "norm" and self.narrow
            else y
        )

    @override
    def matmul(self, x: ir.Value, matrix: np.ndarray, name: str = "") -> ir.Value:
        return self._node("MatMul", [self._head_type(x), self.number(matrix, name)], name)

    @override
    def activate(self, x: ir.Value, function: Activation, name: str = "") -> ir.Value:
        return self._node(_FUNCTIONS[function], [x], name)

    @override
    def class_token(self, tokens: ir.Value, name: str = "") -> ir.Value:
        return self._node("Gather", [self._head_type(tokens), self.graph.index(0)], name, {"axis": 1})

    def weight(self, key: str) -> ir.Value:
        """The initializer of a state-dict key."""
        return self.graph.constant(key, self.tensors[key])


def model_of(
    e: OnnxEmitter,
    *,
    opset: int = OPSET,
    metadata: Mapping[str, str] | None = None,
    heads: Mapping[str, Head] | None = None,
) -> ir.Model:
    """The export contract: `pixel_values` (batch, 3, H, W) -> `last_hidden_state`, `pooler_output` and the heads'.

    Args:
        e: an emitter that has written nothing yet. Inputs and outputs are float32 whatever its type is.
        opset: of the standard domain, 20 or 21.
        metadata: goes into `metadata_props`.
        heads: further outputs, by name.
    """
    graph, config = e.graph, e.config
    height, width = ("height", "width") if e.sides else (side * config.patch for side in config.grid)
    given = contract_value(ir.Value(), INPUT_NAME, ("batch", 3, height, width))
    pixels = graph.node("Cast", [given], f"{INPUT_NAME}/Cast", {"to": graph.float_type}) if e.narrow else given
    backbone = emit_backbone(e, pixels)
    outputs = [
        contract_value(backbone.hidden, OUTPUT_NAMES[0], ("batch", "tokens" if e.sides else e.tokens, config.width)),
        contract_value(backbone.pooled, OUTPUT_NAMES[1], ("batch", config.width)),
    ]
    for name, x in emit_heads(e, heads or {}, backbone.blocks, backbone.hidden).items():
        shape = (heads or {})[name].shape(e.grid)
        shaped = graph.node("Reshape", [x, e.shape(-1, *shape)], name)
        outputs.append(contract_value(shaped, name, ("batch", *map(dimension, shape))))
    model = ir.Model(
        ir.Graph(
            [given],
            outputs,
            nodes=graph.nodes,
            initializers=list(graph.initializers.values()),
            opset_imports={"": opset, **graph.custom_domains},
            name=config.arch,
        ),
        ir_version=IR_VERSIONS[opset],
        producer_name="edgekit",
        producer_version=__version__,
        metadata_props=dict(metadata or {}),
    )
    return ShapeInferencePass()(model).model
