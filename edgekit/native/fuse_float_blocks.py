"""Fusion rule: a whole transformer block of the float graph becomes one ViTBlock with the same float32 weights."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.native.blocks import DOMAIN, FLOAT_BLOCK
from edgekit.native.match_block import match_block
from edgekit.native.matching import NearMiss, Rewrite, rewrite_each_softmax


def fuse_float_blocks(graph: ir.Graph) -> tuple[int, list[str]]:
    """Replace every block, in place; exact up to float rounding. LayerScale must have been folded into the weights.

    Returns:
        How many, and of each Softmax left over why its block is none.
    """
    return rewrite_each_softmax(graph, _fused)


def _fused(softmax: ir.Node) -> Rewrite:
    match = match_block(softmax)
    if match.fc2_gain is not None:
        raise NearMiss("a gain behind GELU, which the float op does not know")
    qkv, proj, fc1, fc2 = (linear.parameters for linear in match.linears)
    norm1, norm2 = match.norms
    inputs = [match.x, *norm1.parameters, *qkv, *proj, *norm2.parameters, *fc1, *fc2]
    attributes = {"num_heads": match.attention.heads, "scale": match.attention.scale, "epsilon": norm1.epsilon}
    name = f"{match.name}/{FLOAT_BLOCK}"
    fused = ir.node(FLOAT_BLOCK, inputs, attributes, domain=DOMAIN, outputs=[ir.Value(name=name)], name=name)
    return Rewrite(match.nodes, match.y, fused)
