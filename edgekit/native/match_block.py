"""Finds a whole transformer block around a Softmax of the float graph."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgekit.native.fuse_attention import AttentionMatch, match_attention
from edgekit.native.matching import NearMiss, closed, constant, consumer, expect, producer, with_constant


@dataclass(frozen=True)
class LinearMatch:
    """MatMul and Add under the module path that its weight's name gives."""

    name: str
    x: ir.Value
    y: ir.Value
    parameters: tuple[ir.Value, ir.Value]  # weight (in, out), bias (out,)
    nodes: tuple[ir.Node, ir.Node]


@dataclass(frozen=True)
class NormMatch:
    """A LayerNormalization over the channels."""

    x: ir.Value
    parameters: tuple[ir.Value, ir.Value]
    epsilon: float
    node: ir.Node


@dataclass(frozen=True)
class BlockMatch:
    """One block as the exporter writes it: x (B, N, D) in and out."""

    x: ir.Value
    y: ir.Value
    norms: tuple[NormMatch, NormMatch]
    linears: tuple[LinearMatch, LinearMatch, LinearMatch, LinearMatch]  # qkv, proj, fc1, fc2
    attention: AttentionMatch
    fc2_gain: ir.Value | None
    nodes: list[ir.Node]

    @property
    def name(self) -> str:
        """ "blocks.0"."""
        return self.linears[0].name.removesuffix(".attn.qkv")


def match_block(softmax: ir.Node) -> BlockMatch:
    """The block around a Softmax.

    Raises:
        NearMiss: it is something else; the reason names the first node that differs.
    """
    attention = match_attention(softmax)
    qkv = _linear_behind(attention.qkv, "the qkv projection")
    norm1 = _norm(qkv.x, "the input of qkv")
    proj = _linear_ahead(attention.mixed, "the output projection")
    first = consumer(proj.y, "Add", "the output projection")
    middle = first.outputs[0]
    expect("the first residual connection", any(value is norm1.x for value in first.inputs), True)
    norms = [node for node in middle.consumers() if node.op_type == "LayerNormalization"]
    expect("the number of norms behind the first residual connection", len(norms), 1)
    norm2 = _norm(norms[0].outputs[0], "the input of fc1")
    expect("epsilon of the second norm", norm2.epsilon, norm1.epsilon)
    fc1 = _linear_ahead(norm2.node.outputs[0], "fc1")
    gelu = consumer(fc1.y, "Gelu", "fc1")
    approximation = gelu.attributes["approximate"].as_string() if "approximate" in gelu.attributes else "none"
    expect("the approximation of GELU", approximation, "none")
    hidden, gain, scaling = gelu.outputs[0], None, []
    if [node.op_type for node in hidden.consumers()] == ["Mul"]:
        node = hidden.consumers()[0]
        gain, hidden, scaling = with_constant(node, "the gain behind GELU")[1], node.outputs[0], [node]
    fc2 = _linear_ahead(hidden, "fc2")
    last = consumer(fc2.y, "Add", "fc2")
    expect("the second residual connection", any(value is middle for value in last.inputs), True)
    linears = (qkv, proj, fc1, fc2)
    nodes = [norm1.node, *attention.nodes, first, norm2.node, gelu, *scaling, last]
    nodes += [node for linear in linears for node in linear.nodes]
    y = last.outputs[0]
    return BlockMatch(norm1.x, y, (norm1, norm2), linears, attention, gain, closed(nodes, y))


def _linear_behind(y: ir.Value, role: str) -> LinearMatch:
    """The linear layer that makes `y`."""
    add = producer(y, "Add", role)
    product, bias = with_constant(add, f"the bias of {role}")
    return _linear(producer(product, "MatMul", role), add, bias, role)


def _linear_ahead(x: ir.Value, role: str) -> LinearMatch:
    """The linear layer that alone takes `x`."""
    product = consumer(x, "MatMul", f"the input of {role}")
    add = consumer(product.outputs[0], "Add", f"the product of {role}")
    return _linear(product, add, with_constant(add, f"the bias of {role}")[1], role)


def _linear(product: ir.Node, add: ir.Node, bias: ir.Value, role: str) -> LinearMatch:
    x, weight = product.inputs
    shape = constant(weight, f"the weight of {role}").shape
    expect(f"the bias shape of {role}", constant(bias, f"the bias of {role}").shape, shape[1:])
    name = (weight.name or "") if weight is not None else ""
    if x is None or weight is None or not name.endswith(".weight"):
        raise NearMiss(f"the weight of {role} is called {name!r}, which is no module path")
    return LinearMatch(name.removesuffix(".weight"), x, add.outputs[0], (weight, bias), (product, add))


def _norm(y: ir.Value, role: str) -> NormMatch:
    node = producer(y, "LayerNormalization", role)
    expect(f"the norm's axis of {role}", node.attributes["axis"].as_int() if "axis" in node.attributes else -1, -1)
    x, weight, bias = (*node.inputs, None)[:3]
    if x is None or weight is None or bias is None:
        raise NearMiss(f"the norm of {role} has no bias")
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    return NormMatch(x, (weight, bias), epsilon, node)
