"""Fusion rule: a whole transformer block of the float graph becomes one ViTBlock with the same float32 weights."""

from __future__ import annotations

import onnx_ir as ir

from edgekit.ops.blocks import DOMAIN, FLOAT_BLOCK
from edgekit.ops.match_block import BlockMatch, match_block
from edgekit.ops.matching import NearMiss, replace


def fuse_float_blocks(graph: ir.Graph) -> tuple[int, list[str]]:
    """Replace every block, in place; exact up to float rounding. LayerScale must have been folded into the weights.

    Returns:
        How many, and of each Softmax left over why its block is none.
    """
    count, reasons = 0, []
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        try:
            match = match_block(softmax)
            node = _fused(match)
        except NearMiss as miss:
            reasons.append(f"{softmax.name}: {miss}")
            continue
        replace(match.nodes, match.y, node, node.name or FLOAT_BLOCK)
        count += 1
    return count, reasons


def _fused(match: BlockMatch) -> ir.Node:
    if match.fc2_gain is not None:
        raise NearMiss("a gain behind GELU, which the float op does not know")
    qkv, proj, fc1, fc2 = (linear.parameters for linear in match.linears)
    norm1, norm2 = match.norms
    inputs = [match.x, *norm1.parameters, *qkv, *proj, *norm2.parameters, *fc1, *fc2]
    attributes = {"num_heads": match.attention.heads, "scale": match.attention.scale, "epsilon": norm1.epsilon}
    name = f"{match.name}/{FLOAT_BLOCK}"
    return ir.node(FLOAT_BLOCK, inputs, attributes, domain=DOMAIN, outputs=[ir.Value(name=name)], name=name)
