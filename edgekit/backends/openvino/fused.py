"""OpenVINO graphs with edgekit's own ops: written through the extension, and read back against the plan."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import numpy as np
import openvino as ov
from openvino.utils.node_factory import NodeFactory
from typing_extensions import override

from edgekit.backends.fused import Attributes, FusedBlocks, numbers_of
from edgekit.backends.openvino.builder import constant
from edgekit.backends.openvino.emitter import OpenVinoEmitter
from edgekit.backends.openvino.gemms import FloatGemms, StaticGemms, WeightGemms
from edgekit.backends.verification import refuse_differences
from edgekit.graph.emitter import Sides, Tensors
from edgekit.graph.gemms import GemmStrategy
from edgekit.models.config import ViTConfig
from edgekit.native.blocks import BLOCK, first_inputs, whole_blocks
from edgekit.native.openvino_library import openvino_extension
from edgekit.plan.heads import HeadPlan
from edgekit.plan.quant import FloatInput, QuantPlan


def fused_core() -> ov.Core:
    """A runtime that knows edgekit's ops, in IRs and in the fused `.onnx` files alike.

    Raises:
        BackendMissing: the extension is not built here.
    """
    core = ov.Core()
    core.add_extension(_library())
    return core


class FusedGemms(StaticGemms):
    """The plan's integers in blocks that are not whole; the patch embedding is float."""

    @override
    def linear(self, name: str, x: ov.Output) -> ov.Output:
        """Beside 16-bit activations the plan has integer weights alone: those of a block that is not whole."""
        gemm = self.plan.gemms.get(name)
        weights_alone = gemm is not None and isinstance(gemm.input, FloatInput)
        return WeightGemms(self.plan, self.sides).linear(name, x) if weights_alone else super().linear(name, x)

    @override
    def patch_embed(self, name: str, pixels: ov.Output) -> ov.Output:
        return FloatGemms(self.config, self.tensors, self.sides).patch_embed(name, pixels)


class FusedOpenVinoEmitter(FusedBlocks[ov.Output], OpenVinoEmitter):
    """Writes edgekit's ops; `fuse` says with which plan."""

    def __init__(
        self,
        config: ViTConfig,
        tensors: Tensors,
        gemms: GemmStrategy[ov.Output],
        head_plan: HeadPlan | None = None,
        sides: Sides | None = None,
    ) -> None:
        """As every emitter. Raises BackendMissing when the extension is not built here."""
        super().__init__(config, tensors, gemms, head_plan, sides)
        self._factory = NodeFactory("opset13")
        self._factory.add_extension(_library())

    @override
    def custom_op(self, kind: str, inputs: list[ov.Output | None], attributes: Attributes, name: str) -> ov.Output:
        node = self._factory.create(kind, [x for x in inputs if x is not None], attributes)
        node.set_friendly_name(f"{name}/{kind}")
        return node.output(0)

    @override
    def constant(self, name: str, value: np.ndarray) -> ov.Output:
        return constant(value, name)


def verify_blocks(path: Path, plan: QuantPlan) -> int:
    """Compare every integer, scale and bias of the fused blocks at `path` with `plan`; returns the blocks checked.

    Raises:
        ExportError: a number differs, or a block that could be fused is not.
    """
    nodes = {node.get_friendly_name(): node for node in fused_core().read_model(path).get_ordered_ops()}
    problems, checked = [], 0
    for name, reason in whole_blocks(plan).items():
        if reason is not None:
            continue
        node = nodes.get(f"{name}/{BLOCK}")
        if node is None:
            problems.append(f"{name} is not fused")
            continue
        for part, first in first_inputs(plan.config.ffn).items():
            expected = numbers_of(plan.gemms[f"{name}.{part}"])
            for place, (kind, value) in enumerate(expected.items(), first):
                stored = node.input_value(place).get_node()
                if stored.get_type_name() != "Constant" or not np.array_equal(stored.data, value):
                    problems.append(f"{name}.{part}.{kind} differs")
        checked += 1
    refuse_differences(path, problems)
    return checked


def _library() -> str:
    library = openvino_extension()
    _keep_loaded(library)
    return str(library)


@cache
def _keep_loaded(library: Path) -> ctypes.CDLL:
    """OpenVINO unloads an extension with the factory or core that brought it; nodes that live on would crash."""
    return ctypes.CDLL(str(library))
