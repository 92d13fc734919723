"""What a fused integer file is written from, and what it computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from edgekit.backends.onnx_graph import FloatGemms
from edgekit.backends.onnx_integer import StaticGemms
from edgekit.backends.onnx_weights import Storage
from edgekit.backends.onnx_writer import GraphWriter
from edgekit.errors import ExportError
from edgekit.models.config import DinoV2Config
from edgekit.ops.fuse_blocks import FIRST_INPUT, OP, Tier, whole_blocks
from edgekit.quantize.plan import PerTokenInput, QuantPlan


class FusableGemms(StaticGemms):
    """Float in the blocks that become one op each, static integers in blocks of which the plan keeps a part float.

    The patch embedding stays float: it is 1 % of the arithmetic, and as integers it would cost a pass over the patches.
    """

    def __init__(self, plan: QuantPlan, storage: Storage) -> None:
        super().__init__(plan, storage)
        self.whole = whole_blocks(plan)

    def linear(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        """Float where the block will be fused."""
        block = ".".join(name.split(".")[:2])
        return FloatGemms.linear(self, graph, name, x) if block in self.whole else super().linear(graph, name, x)

    def patches(self, graph: GraphWriter, name: str, pixels: ir.Value, config: DinoV2Config) -> ir.Value:
        """The float convolution."""
        return FloatGemms.patches(self, graph, name, pixels, config)

    def attention(self, graph: GraphWriter, name: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Float, for the fusion to find."""
        return FloatGemms.attention(self, graph, name, q, k, v)


def as_fused(plan: QuantPlan) -> QuantPlan:
    """The plan as a fused file runs it, for the simulator: whole blocks per token with the uncorrected bias."""
    whole = whole_blocks(plan)
    gemms = {}
    for name, gemm in plan.gemms.items():
        if ".".join(name.split(".")[:2]) in whole:
            gemms[name] = replace(gemm, bias=gemm.bias_dynamic, input=PerTokenInput())
        elif name != "patch_embed.proj":
            gemms[name] = gemm
    return replace(plan, gemms=gemms, matmuls={})


def tier_of(plan: QuantPlan) -> Tier:
    """The tier that the plan's recipe asked for; "speed" where a plan does not say."""
    recipe = plan.provenance.get("recipe", {})
    return "quality" if recipe.get("tier") == "quality" else "speed"


def verify_blocks(path: Path, plan: QuantPlan) -> int:
    """Compare every integer, scale and bias of the fused blocks of a file with `plan`; returns the blocks checked.

    Raises:
        ExportError: a number differs, or a block that could be fused is not.
    """
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {node.name.removesuffix(f"/{OP}"): node for node in graph.node if node.op_type == OP}
    problems = [f"{name} is not fused" for name in sorted(whole_blocks(plan) - set(nodes))]
    for block, node in nodes.items():
        for part, first in FIRST_INPUT.items():
            gemm = plan.gemms[f"{block}.{part}"]
            expected = (gemm.weight, gemm.weight_scale[:, 0], gemm.bias_dynamic)
            for array, name in zip(expected, node.input[first : first + 3], strict=True):
                if not np.array_equal(numpy_helper.to_array(constants[name]), array):
                    problems.append(f"{name} differs")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ExportError(f"{path.name} is not the plan: {'; '.join(problems[:3])}{more}")
    return len(nodes)
