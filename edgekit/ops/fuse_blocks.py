"""Fusion rule: a whole transformer block of the float graph becomes one QViTBlock with the plan's integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgekit.ops.blocks import BLOCK, DOMAIN, Tier, bits_of, problem_of
from edgekit.ops.fuse_attention import AttentionMatch, match_attention
from edgekit.ops.matching import NearMiss, closed, constant, consumer, expect, producer, replace, with_constant

if TYPE_CHECKING:
    from edgekit.quantize.plan import GemmPlan, QuantPlan


@dataclass(frozen=True)
class LinearMatch:
    """MatMul and Add under the module path that its weight's name gives."""

    name: str
    x: ir.Value
    y: ir.Value
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


def fuse_blocks(graph: ir.Graph, plan: QuantPlan, tier: Tier) -> tuple[int, list[str]]:
    """Replace every block whose four GEMMs the plan quantizes, in place.

    The graph gives the structure and the plan the numbers, by the module paths that name the weights: integers, scales,
    and the bias without the correction for static ranges, since the op takes each token's own range.

    Returns:
        How many, and of each Softmax left over why its block is none.
    """
    count, reasons = 0, []
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        try:
            match = match_block(softmax)
            node = _fused(graph, match, plan, tier)
        except NearMiss as miss:
            reasons.append(f"{softmax.name}: {miss}")
            continue
        replace(match.nodes, match.y, node, node.name or BLOCK)
        count += 1
    return count, reasons


def _fused(graph: ir.Graph, match: BlockMatch, plan: QuantPlan, tier: Tier) -> ir.Node:
    inputs: list[ir.Value | None] = [match.x]
    for linear in match.linears:
        if problem := problem_of(plan.gemms, linear.name):
            raise NearMiss(problem)
    qkv, proj, fc1, fc2 = ([*_integers(graph, plan.gemms[linear.name])] for linear in match.linears)
    norm1, norm2 = match.norms
    inputs += [*norm1.parameters, *qkv, *proj, *norm2.parameters, *fc1, *fc2]
    if match.fc2_gain is not None:
        inputs.append(match.fc2_gain)
    expect("epsilon of the second norm", norm2.epsilon, norm1.epsilon)
    attributes = {"num_heads": match.attention.heads, "scale": match.attention.scale, "epsilon": norm1.epsilon,
                  "tier": tier, "weight_bits": bits_of(plan, match.name)}  # fmt: skip
    name = f"{match.name}/{BLOCK}"
    return ir.node(BLOCK, inputs, attributes, domain=DOMAIN, outputs=[ir.Value(name=name)], name=name)


def _integers(graph: ir.Graph, gemm: GemmPlan) -> tuple[ir.Value, ir.Value, ir.Value]:
    """int8 (out, in), scale (out,) and bias (out,) as initializers beside the float ones, which fall away unused."""
    parts = (("weight_q", gemm.weight), ("weight_scale", gemm.weight_scale[:, 0]), ("bias_q", gemm.bias_dynamic))
    values = []
    for part, array in parts:
        name = f"{gemm.name}.{part}"
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
        values.append(value)
    weight, scale, bias = values
    return weight, scale, bias


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
    name = weight.name or "" if weight is not None else ""
    if x is None or not name.endswith(".weight"):
        raise NearMiss(f"the weight of {role} is called {name!r}, which is no module path")
    return LinearMatch(name.removesuffix(".weight"), x, add.outputs[0], (product, add))


def _norm(y: ir.Value, role: str) -> NormMatch:
    node = producer(y, "LayerNormalization", role)
    expect(f"the norm's axis of {role}", node.attributes["axis"].as_int() if "axis" in node.attributes else -1, -1)
    x, weight, bias = (*node.inputs, None)[:3]
    if x is None or weight is None or bias is None:
        raise NearMiss(f"the norm of {role} has no bias")
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    return NormMatch(x, (weight, bias), epsilon, node)
