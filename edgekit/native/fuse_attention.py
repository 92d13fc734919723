"""Fusion rule: the nodes between the packed qkv projection and the output projection become one FusedQKVAttention."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgekit.native.blocks import ATTENTION, DOMAIN
from edgekit.native.matching import (
    NearMiss,
    Rewrite,
    closed,
    constant,
    consumer,
    expect,
    permutation,
    producer,
    rewrite_each_softmax,
    with_constant,
)


@dataclass(frozen=True)
class AttentionMatch:
    """One attention as the exporter writes it: `qkv` (B, N, 3 * D) in, `mixed` (B, N, D) out."""

    qkv: ir.Value
    mixed: ir.Value
    heads: int
    scale: float  # 1.0 once folded into the queries
    nodes: list[ir.Node]


def match_attention(softmax: ir.Node) -> AttentionMatch:
    """The attention around a Softmax.

    Raises:
        NearMiss: it is something else; the reason names the first node that differs.
    """
    axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
    expect("the softmax axis", axis, -1)
    logits = producer(softmax.inputs[0], "MatMul", "the softmax input")
    turned = producer(logits.inputs[1], "Transpose", "the key operand")
    expect("the order of the keys' axes", permutation(turned), [0, 1, 3, 2])
    scaling, query = _scaling(logits.inputs[0])
    mix = consumer(softmax.outputs[0], "MatMul", "the softmax output")
    expect("the softmax's place in the second product", mix.inputs[0] is softmax.outputs[0], True)
    parts = [
        producer(value, "Gather", f"operand {part}")
        for part, value in (("q", query), ("k", turned.inputs[0]), ("v", mix.inputs[1]))
    ]
    for index, (part, gather) in enumerate(zip("qkv", parts, strict=True)):
        expect(f"the index of {part}", constant(gather.inputs[1], f"the index of {part}").tolist(), index)
        expect(f"the source of {part}", gather.inputs[0] is parts[0].inputs[0], True)
    apart = producer(parts[0].inputs[0], "Transpose", "the stack of q, k, v")
    expect("the order of its axes", permutation(apart), [2, 0, 3, 1, 4])
    heads_apart = producer(apart.inputs[0], "Reshape", "the packed projection with heads apart")
    shape = constant(heads_apart.inputs[1], "its shape").tolist()
    if len(shape) != 5 or shape[:3] != [0, 0, 3] or min(shape) < 0:
        raise NearMiss(f"its shape is {shape}, not [0, 0, 3, heads, head_dim]")
    heads, channels = int(shape[3]), int(shape[4])
    joined = consumer(mix.outputs[0], "Transpose", "the second product")
    expect("the order of its axes", permutation(joined), [0, 2, 1, 3])
    together = consumer(joined.outputs[0], "Reshape", "the heads side by side")
    shape = constant(together.inputs[1], "the shape of the heads together").tolist()
    if shape not in ([0, 0, heads * channels], [0, 0, -1]):
        raise NearMiss(f"the shape of the heads together is {shape}, not [0, 0, {heads * channels}]")
    nodes = [heads_apart, apart, *parts, turned, logits, softmax, mix, joined, together]
    scale = 1.0 if scaling is None else float(constant(with_constant(scaling, "the scaling")[1], "the scale").item())
    nodes += [scaling] if scaling is not None else []
    qkv, mixed = heads_apart.inputs[0], together.outputs[0]
    assert qkv is not None  # a Reshape has an input
    return AttentionMatch(qkv, mixed, heads, scale, closed(nodes, mixed))


def fuse_attention(graph: ir.Graph) -> tuple[int, list[str]]:
    """Replace every attention of a float32 graph, in place; exact up to float rounding.

    Returns:
        How many, and of each Softmax left over why it is none.
    """
    return rewrite_each_softmax(graph, _fused)


def _fused(softmax: ir.Node) -> Rewrite:
    match = match_attention(softmax)
    name = f"{(softmax.name or ATTENTION).rpartition('/')[0]}/{ATTENTION}"
    attributes = {"num_heads": match.heads, "scale": match.scale, "mode": "f32"}
    fused = ir.node(ATTENTION, [match.qkv], attributes, domain=DOMAIN, outputs=[ir.Value(name=name)], name=name)
    return Rewrite(match.nodes, match.mixed, fused)


def _scaling(query: ir.Value | None) -> tuple[ir.Node | None, ir.Value | None]:
    """The Mul that scales the queries, if there is one, and the queries before it."""
    node = query.producer() if query is not None else None
    if node is None or node.op_type != "Mul":
        return None, query
    computed, scale = with_constant(node, "the scaling of the queries")
    if constant(scale, "the scale").size != 1:
        raise NearMiss("the scale of the queries is no single number")
    return node, computed
