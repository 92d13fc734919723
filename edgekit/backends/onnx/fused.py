"""ONNX graphs with edgekit's own ops: written directly, and read back against the plan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from typing_extensions import override

from edgekit.backends.fused import Attributes, FusedBlocks, numbers_of
from edgekit.backends.onnx.emitter import OnnxEmitter
from edgekit.backends.onnx.gemms import FloatGemms, StaticGemms
from edgekit.backends.onnx.weights import channel_scale, integer_weight
from edgekit.backends.verification import refuse_differences
from edgekit.native.blocks import BLOCK, DOMAIN, VERSION, first_inputs, whole_blocks
from edgekit.plan.quant import FloatInput, GemmPlan, QuantPlan


class FusedGemms(StaticGemms):
    """The plan's integers in blocks that are not whole; the patch embedding is float."""

    @override
    def integer(self, gemm: GemmPlan, x: ir.Value, tokens: int | None) -> ir.Value:
        """Beside 16-bit activations the plan has integer weights alone: those of a block that is not whole."""
        if not isinstance(gemm.input, FloatInput):
            return super().integer(gemm, x, tokens)
        weight, zero = integer_weight(self.graph, gemm, self.storage, "")
        inputs = [weight, channel_scale(self.graph, gemm), zero]
        name = gemm.name
        weight = self.graph.node("DequantizeLinear", inputs, f"{name}.weight/DequantizeLinear", {"axis": 1})
        y = self.graph.node("MatMul", [x, weight], f"{name}/MatMul")
        return self.graph.node("Add", [y, self.graph.constant(f"{name}.float_bias", gemm.bias_dynamic)], f"{name}/Add")

    @override
    def patch_embed(self, name: str, pixels: ir.Value) -> ir.Value:
        return FloatGemms.patch_embed(self, name, pixels)


class FusedOnnxEmitter(FusedBlocks[ir.Value], OnnxEmitter):
    """Writes edgekit's ops; `fuse` says with which plan."""

    @override
    def custom_op(self, kind: str, inputs: list[ir.Value | None], attributes: Attributes, name: str) -> ir.Value:
        self.graph.custom_domains[DOMAIN] = VERSION
        y = self.graph.node(kind, inputs, f"{name}/{kind}", attributes, domain=DOMAIN)
        y.shape, y.type = (
            ir.Shape(("batch", "tokens" if self.sides else self.tokens, self.config.width)),
            ir.TensorType(ir.DataType.FLOAT),
        )
        return y

    @override
    def constant(self, name: str, value: np.ndarray) -> ir.Value:
        return self.graph.constant(name, value)


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
        for part, first in first_inputs(plan.config.ffn).items():
            gemm = plan.gemms[f"{block}.{part}"]
            expected = numbers_of(gemm).values()
            for array, name in zip(expected, node.input[first : first + 3], strict=True):
                if not np.array_equal(numpy_helper.to_array(constants[name]), array):
                    problems.append(f"{name} differs")
    refuse_differences(path, problems)
    return len(nodes)
