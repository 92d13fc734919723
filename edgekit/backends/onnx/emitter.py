"""The DINOv2 graph written op by op in ONNX: clean names, exact control, the same bytes every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from edgekit import __version__
from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.onnx.builder import GraphWriter, contract_value
from edgekit.backends.onnx.heads import head_outputs
from edgekit.backends.onnx.weights import Storage
from edgekit.graph.heads import Head
from edgekit.models.config import DinoV2Config
from edgekit.plan.heads import HeadPlan

OPSET = 20  # the first with Gelu; LayerNormalization came with 17
IR_VERSIONS = {20: 9, 21: 10}  # opset -> IR version of the ONNX release that brought it (1.15, 1.16)
LAYER_NORM_EPS = 1e-6

Tensors = Mapping[str, np.ndarray]  # keys of `edgekit.surgery.state_of`


class Gemms(Protocol):
    """Decides how each matrix product is computed: float, integer or weight-only. One graph serves all precisions."""

    def linear(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        """(B, N, in) -> (B, N, out) of the linear layer with that module path, bias included."""
        ...

    def patches(self, graph: GraphWriter, name: str, pixels: ir.Value, config: DinoV2Config) -> ir.Value:
        """(B, 3, H, W) -> (B, P, D): the patch embedding, bias included."""
        ...

    def attention(self, graph: GraphWriter, name: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """softmax(q k^T * scale) v for q, k, v of (B, H, N, d)."""
        ...


class FloatGemms:
    """Every product in the graph's float type: MatMul then Add, weights stored transposed as (in, out)."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def linear(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        """MatMul + Add."""
        weight = graph.constant(f"{name}.weight", self.tensors[f"{name}.weight"].T)
        product = graph.node("MatMul", [x, weight], f"{name}/MatMul")
        return graph.node("Add", [product, graph.constant(f"{name}.bias", self.tensors[f"{name}.bias"])], f"{name}/Add")

    def patches(self, graph: GraphWriter, name: str, pixels: ir.Value, config: DinoV2Config) -> ir.Value:
        """Conv with bias, kernel and stride of one patch."""
        weight, bias = (graph.constant(f"{name}.{part}", self.tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
        sides = [config.patch, config.patch]
        x = graph.node("Conv", [pixels, weight, bias], f"{name}/Conv", {"kernel_shape": sides, "strides": sides})
        x = graph.node("Reshape", [x, graph.ints(0, 0, -1)], f"{name}/Reshape")  # (B, D, P)
        return graph.node("Transpose", [x], f"{name}/Transpose", {"perm": [0, 2, 1]})

    def attention(self, graph: GraphWriter, name: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """MatMul, Softmax, MatMul; the scale multiplies q unless it is folded away."""
        if self.tensors[f"{name}.scale"].item() != 1.0:
            q = graph.node("Mul", [q, graph.constant(f"{name}.scale", self.tensors[f"{name}.scale"])], f"{name}.q/Mul")
        keys = graph.node("Transpose", [k], f"{name}.k/Transpose", {"perm": [0, 1, 3, 2]})  # (B, H, d, N)
        logits = graph.node("MatMul", [q, keys], f"{name}.logits/MatMul")  # (B, H, N, N)
        weights = graph.node("Softmax", [logits], f"{name}/Softmax", {"axis": -1})
        return graph.node("MatMul", [weights, v], f"{name}.mix/MatMul")  # (B, H, N, d)


def dinov2_graph(
    config: DinoV2Config,
    tensors: Tensors,
    gemms: Gemms,
    *,
    float_type: ir.DataType = ir.DataType.FLOAT,
    opset: int = OPSET,
    metadata: Mapping[str, str] | None = None,
    heads: Mapping[str, Head] | None = None,
    head_plan: HeadPlan | None = None,
    storage: Storage = "int8",
) -> ir.Model:
    """The whole backbone: `pixel_values` (batch, 3, H, W) -> `last_hidden_state` (batch, N, D), `pooler_output`.

    Args:
        config: architecture; its `grid` fixes the image size.
        tensors: the baked model as `edgekit.surgery.state_of` gives it, or a plan's `float_tensors`.
        gemms: how weight GEMMs and attention products are computed.
        float_type: FLOAT, or FLOAT16 for weights and arithmetic; the contract's inputs and outputs stay FLOAT.
        opset: of the standard domain, 20 or 21.
        metadata: goes into `metadata_props`.
        heads: further outputs, by name.
        head_plan: their integers.
        storage: of those.
    """
    graph = GraphWriter(float_type)
    height, width = (side * config.patch for side in config.grid)
    pixels = contract_value(ir.Value(), INPUT_NAME, ("batch", 3, height, width))
    blocks, hidden = _Emission(graph, config, tensors, gemms).backbone(pixels)
    hidden_name, pooled_name = OUTPUT_NAMES
    pooled = graph.node("Gather", [hidden, graph.index(0)], pooled_name, {"axis": 1})
    outputs = [
        contract_value(hidden, hidden_name, ("batch", config.tokens(height, width), config.width)),
        contract_value(pooled, pooled_name, ("batch", config.width)),
    ]
    outputs += head_outputs(graph, heads or {}, blocks, hidden, tensors, config.grid, head_plan, storage)
    model = ir.Model(
        ir.Graph(
            [pixels],
            outputs,
            nodes=graph.nodes,
            initializers=list(graph.initializers.values()),
            opset_imports={"": opset},
            name=config.arch,
        ),
        ir_version=IR_VERSIONS[opset],
        producer_name="edgekit",
        producer_version=__version__,
        metadata_props=dict(metadata or {}),
    )
    return ShapeInferencePass()(model).model


@dataclass(frozen=True)
class _Emission:
    """One walk over the model, module by module, in the order of its forward pass."""

    graph: GraphWriter
    config: DinoV2Config
    tensors: Tensors
    gemms: Gemms

    def backbone(self, pixels: ir.Value) -> tuple[list[ir.Value], ir.Value]:
        """(B, 3, H, W) float32 -> (B, N, D) behind each block, and float32 after the final norm."""
        narrow = self.graph.float_type != ir.DataType.FLOAT
        if narrow:
            pixels = self.graph.node("Cast", [pixels], f"{INPUT_NAME}/Cast", {"to": self.graph.float_type})
        x, blocks = self.embed(pixels), []
        for i in range(self.config.depth):
            x = self.block(f"blocks.{i}", x)
            blocks.append(x)
        if "unrotate" in self.tensors:
            x = self.graph.node("MatMul", [x, self.weight("unrotate")], "unrotate/MatMul")
        x = self.layer_norm("norm", x)
        return blocks, self.graph.node("Cast", [x], "norm/Cast", {"to": ir.DataType.FLOAT}) if narrow else x

    def embed(self, pixels: ir.Value) -> ir.Value:
        """Patch embedding, CLS token, position embedding, registers (which carry no position): (B, N, D)."""
        graph = self.graph
        patches = self.gemms.patches(graph, "patch_embed.proj", pixels, self.config)  # (B, P, D)
        batch = graph.node("Shape", [pixels], "batch/Shape", {"start": 0, "end": 1})
        each = graph.node("Concat", [batch, graph.ints(1, 1)], "batch/Concat", {"axis": 0})  # [B, 1, 1]
        cls = graph.node("Expand", [self.weight("cls_token"), each], "cls_token/Expand")
        tokens = graph.node("Concat", [cls, patches], "cls_token/Concat", {"axis": 1})
        tokens = graph.node("Add", [tokens, self.weight("pos_embed")], "pos_embed/Add")
        if self.config.registers:
            registers = graph.node("Expand", [self.weight("register_tokens"), each], "register_tokens/Expand")
            sizes = (1, self.config.grid[0] * self.config.grid[1])
            outputs = ("register_tokens/Split.cls", "register_tokens/Split.patches")
            cls, patches = graph.split(tokens, sizes, 1, "register_tokens/Split", outputs)
            tokens = graph.node("Concat", [cls, registers, patches], "register_tokens/Concat", {"axis": 1})
        return tokens

    def block(self, name: str, x: ir.Value) -> ir.Value:
        """x + ls1(attention(norm1(x))), then x + ls2(mlp(norm2(x)))."""
        attended = self.attention(f"{name}.attn", self.layer_norm(f"{name}.norm1", x))
        x = self.graph.node("Add", [x, self.layer_scale(f"{name}.ls1", attended)], f"{name}.attn.residual/Add")
        feed_forward = self.mlp if self.config.ffn == "mlp" else self.swiglu
        fed = feed_forward(f"{name}.mlp", self.layer_norm(f"{name}.norm2", x))
        return self.graph.node("Add", [x, self.layer_scale(f"{name}.ls2", fed)], f"{name}.mlp.residual/Add")

    def attention(self, name: str, x: ir.Value) -> ir.Value:
        """Packed qkv projection, heads apart, softmax(q k^T) v, heads together, output projection."""
        graph, config = self.graph, self.config
        qkv = self.gemms.linear(graph, f"{name}.qkv", x)  # (B, N, 3 * D)
        qkv = graph.node("Reshape", [qkv, graph.ints(0, 0, 3, config.heads, config.head_dim)], f"{name}.qkv/Reshape")
        qkv = graph.node("Transpose", [qkv], f"{name}.qkv/Transpose", {"perm": [2, 0, 3, 1, 4]})  # (3, B, H, N, d)
        q, k, v = (
            graph.node("Gather", [qkv, graph.index(i)], f"{name}.{part}/Gather", {"axis": 0})
            for i, part in enumerate("qkv")
        )
        mixed = self.gemms.attention(graph, name, q, k, v)
        mixed = graph.node("Transpose", [mixed], f"{name}.mix/Transpose", {"perm": [0, 2, 1, 3]})  # (B, N, H, d)
        mixed = graph.node("Reshape", [mixed, graph.ints(0, 0, config.width)], f"{name}.mix/Reshape")
        return self.gemms.linear(graph, f"{name}.proj", mixed)

    def mlp(self, name: str, x: ir.Value) -> ir.Value:
        """fc2(gelu(fc1(x))), with the smoothing rewrite's gain on the hidden channels when there is one."""
        hidden = self.graph.node("Gelu", [self.gemms.linear(self.graph, f"{name}.fc1", x)], f"{name}.act/Gelu")
        gain = f"{name}.fc2_gain"
        if gain in self.tensors:
            hidden = self.graph.node("Mul", [hidden, self.weight(gain)], f"{gain}/Mul")
        return self.gemms.linear(self.graph, f"{name}.fc2", hidden)

    def swiglu(self, name: str, x: ir.Value) -> ir.Value:
        """w3(silu(gate) * value) with the two halves of w12."""
        graph, half = self.graph, self.config.ffn_hidden
        both = self.gemms.linear(graph, f"{name}.w12", x)
        outputs = (f"{name}.gate", f"{name}.value")
        gate, value = graph.split(both, (half, half), -1, f"{name}.w12/Split", outputs)
        sigmoid = graph.node("Sigmoid", [gate], f"{name}.gate/Sigmoid")
        silu = graph.node("Mul", [gate, sigmoid], f"{name}.gate/Mul")
        return self.gemms.linear(graph, f"{name}.w3", graph.node("Mul", [silu, value], f"{name}.value/Mul"))

    def layer_norm(self, name: str, x: ir.Value) -> ir.Value:
        """LayerNormalization over the channels."""
        inputs = [x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias")]
        attributes = {"axis": -1, "epsilon": LAYER_NORM_EPS}
        return self.graph.node("LayerNormalization", inputs, f"{name}/LayerNormalization", attributes)

    def layer_scale(self, name: str, x: ir.Value) -> ir.Value:
        """x * gamma, or x itself once LayerScale is folded."""
        gamma = f"{name}.gamma"
        return self.graph.node("Mul", [x, self.weight(gamma)], f"{name}/Mul") if gamma in self.tensors else x

    def weight(self, name: str) -> ir.Value:
        """The initializer of a state-dict key."""
        return self.graph.constant(name, self.tensors[name])
