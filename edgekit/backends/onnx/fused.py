"""What a fused integer file is written from, and the comparison of it with the plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from edgekit.backends.onnx.builder import GraphWriter
from edgekit.backends.onnx.emitter import FloatGemms
from edgekit.backends.onnx.gemms import StaticGemms
from edgekit.backends.onnx.weights import Storage
from edgekit.errors import ExportError
from edgekit.models.config import DinoV2Config
from edgekit.native.blocks import BLOCK, FIRST_INPUT, block_of, whole_blocks
from edgekit.plan.quant import QuantPlan


class FusableGemms(StaticGemms):
    """Float in the blocks that become one op each, static integers in blocks of which the plan keeps a part float."""

    def __init__(self, plan: QuantPlan, storage: Storage) -> None:
        super().__init__(plan, storage)
        self.whole = {name for name, reason in whole_blocks(plan).items() if reason is None}

    def linear(self, graph: GraphWriter, name: str, x: ir.Value) -> ir.Value:
        """Float where the block will be fused."""
        whole = block_of(name) in self.whole
        return FloatGemms.linear(self, graph, name, x) if whole else super().linear(graph, name, x)

    def patches(self, graph: GraphWriter, name: str, pixels: ir.Value, config: DinoV2Config) -> ir.Value:
        """The float convolution."""
        return FloatGemms.patches(self, graph, name, pixels, config)

    def attention(self, graph: GraphWriter, name: str, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """Float, for the fusion to find."""
        return FloatGemms.attention(self, graph, name, q, k, v)


def verify_blocks(path: Path, plan: QuantPlan) -> int:
    """Compare every integer, scale and bias of the fused blocks of a file with `plan`; returns the blocks checked.

    Raises:
        ExportError: a number differs, or a block that could be fused is not.
    """
    graph = onnx.load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = {node.name.removesuffix(f"/{BLOCK}"): node for node in graph.node if node.op_type == BLOCK}
    whole = whole_blocks(plan)
    problems = [f"{name} is not fused" for name in whole if whole[name] is None and name not in nodes]
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
