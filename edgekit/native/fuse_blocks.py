"""Fusion rule: a whole transformer block of the float graph becomes one QViTBlock with the plan's integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgekit.native.blocks import BLOCK, DOMAIN, Tier, problem_of
from edgekit.native.match_block import BlockMatch, match_block
from edgekit.native.matching import NearMiss, Rewrite, rewrite_each_softmax

if TYPE_CHECKING:
    from edgekit.plan.quant import GemmPlan, QuantPlan


def fuse_blocks(graph: ir.Graph, plan: QuantPlan, tier: Tier) -> tuple[int, list[str]]:
    """Replace every block whose four GEMMs the plan quantizes, in place.

    The graph gives the structure and the plan the numbers, by the module paths that name the weights: integers, scales,
    and the bias without the correction for static ranges, since the op takes each token's own range.

    Returns:
        How many, and of each Softmax left over why its block is none.
    """

    def rule(softmax: ir.Node) -> Rewrite:
        match = match_block(softmax)
        return Rewrite(match.nodes, match.y, _fused(graph, match, plan, tier))

    return rewrite_each_softmax(graph, rule)


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
    attributes = {
        "num_heads": match.attention.heads,
        "scale": match.attention.scale,
        "epsilon": norm1.epsilon,
        "tier": tier,
    }
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
