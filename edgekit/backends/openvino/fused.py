"""OpenVINO graphs with edgekit's own ops: written through the extension, and read back against the plan."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import openvino as ov
from openvino.utils.node_factory import NodeFactory

from edgekit.backends.fused import tier_of
from edgekit.backends.openvino.emitter import LAYER_NORM_EPS, FloatGemms, Gemms, Writer, constant
from edgekit.backends.openvino.gemms import IntegerGemms
from edgekit.errors import ExportError
from edgekit.models.config import DinoV2Config
from edgekit.native.blocks import ATTENTION, BLOCK, FIRST_INPUT, FLOAT_BLOCK, whole_blocks
from edgekit.native.openvino_library import openvino_extension
from edgekit.plan.quant import GemmPlan, QuantPlan


def fused_core() -> ov.Core:
    """A runtime that knows edgekit's ops, in IRs and in the fused `.onnx` files alike.

    Raises:
        BackendMissing: the extension is not built here.
    """
    core = ov.Core()
    core.add_extension(_library())
    return core


class FusedGemms(IntegerGemms):
    """The plan's integers in blocks that are not whole; everywhere else, the patch embedding included, float."""

    def convolution(self, name: str, pixels: ov.Output, patch: int) -> ov.Output:
        """The float patch embedding."""
        return FloatGemms(self.tensors).convolution(name, pixels, patch)


class FusedWriter(Writer):
    """Writes whole blocks as one QViTBlock or ViTBlock, and the attention of all others as one FusedQKVAttention."""

    def __init__(
        self, config: DinoV2Config, tensors: Mapping[str, np.ndarray], gemms: Gemms, plan: QuantPlan | None = None
    ) -> None:
        """Without `plan` the blocks are float.

        Raises:
            BackendMissing: the extension is not built here.
            ExportError: there is a plan, but no block of it is whole.
        """
        super().__init__(config, tensors, gemms)
        self.plan = plan
        self.reasons = {} if plan is None else whole_blocks(plan)
        if plan is not None and None not in self.reasons.values():
            why = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
            raise ExportError("no block could be fused", why=why, fix="export the standard variant")
        self.factory = NodeFactory("opset13")
        self.factory.add_extension(_library())

    def block(self, name: str, x: ov.Output) -> ov.Output:
        """One op where the plan quantizes all four GEMMs, or where all is float."""
        if self.plan is None:
            return self.float_block(name, x)
        if self.reasons[name] is not None:
            return super().block(name, x)
        gemms = {part: _constants(self.plan.gemms[f"{name}.{part}"]) for part in FIRST_INPUT}
        norm1, norm2 = self.parameters(f"{name}.norm1"), self.parameters(f"{name}.norm2")
        inputs = [x, *norm1, *gemms["attn.qkv"], *gemms["attn.proj"], *norm2, *gemms["mlp.fc1"], *gemms["mlp.fc2"]]
        if (gain := f"{name}.mlp.fc2_gain") in self.tensors:
            inputs.append(constant(self.tensors[gain], gain))
        attributes = {
            "num_heads": self.config.heads,
            "scale": self.tensors[f"{name}.attn.scale"].item(),
            "epsilon": LAYER_NORM_EPS,
            "tier": tier_of(self.plan),
        }
        return self.create(BLOCK, inputs, attributes, name)

    def float_block(self, name: str, x: ov.Output) -> ov.Output:
        """One op where LayerScale is folded away and the feed-forward part is an MLP."""
        if self.config.ffn != "mlp" or f"{name}.ls1.gamma" in self.tensors:
            return super().block(name, x)
        inputs = [x]
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            inputs += self.parameters(f"{name}.{part}")
        attributes = {
            "num_heads": self.config.heads,
            "scale": self.tensors[f"{name}.attn.scale"].item(),
            "epsilon": LAYER_NORM_EPS,
        }
        return self.create(FLOAT_BLOCK, inputs, attributes, name)

    def parameters(self, name: str) -> list[ov.Output]:
        """Weight, a linear layer's as matrix (in, out), and bias of a module."""
        weight, bias = f"{name}.weight", f"{name}.bias"
        return [constant(np.ascontiguousarray(self.tensors[weight].T), weight), constant(self.tensors[bias], bias)]

    def mix(self, name: str, packed: ov.Output) -> ov.Output:
        """(B, N, 3 * D) -> (B, N, D) in one op, exact."""
        scale = self.tensors[f"{name}.scale"].item()
        return self.create(ATTENTION, [packed], {"num_heads": self.config.heads, "scale": scale, "mode": "f32"}, name)

    def create(self, op: str, inputs: list[ov.Output], attributes: dict[str, object], name: str) -> ov.Output:
        """A node of our own under its module path."""
        node = self.factory.create(op, inputs, attributes)
        node.set_friendly_name(f"{name}/{op}")
        return node.output(0)


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
        for part, first in FIRST_INPUT.items():
            expected = _numbers(plan.gemms[f"{name}.{part}"])
            for place, (kind, value) in enumerate(expected.items(), first):
                stored = node.input_value(place).get_node()
                if stored.get_type_name() != "Constant" or not np.array_equal(stored.data, value):
                    problems.append(f"{name}.{part}.{kind} differs")
        checked += 1
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ExportError(f"{path.name} is not the plan: {'; '.join(problems[:3])}{more}")
    return checked


def _library() -> str:
    library = openvino_extension()
    _keep_loaded(library)
    return str(library)


@cache
def _keep_loaded(library: Path) -> ctypes.CDLL:
    """OpenVINO unloads an extension with the factory or core that brought it; nodes that live on would crash."""
    return ctypes.CDLL(str(library))


def _numbers(gemm: GemmPlan) -> dict[str, np.ndarray]:
    """What the op takes of a GEMM, in its order."""
    return {"weight": gemm.weight, "weight_scale": gemm.weight_scale[:, 0], "bias": gemm.bias_dynamic}


def _constants(gemm: GemmPlan) -> list[ov.Output]:
    return [constant(value, f"{gemm.name}.{kind}") for kind, value in _numbers(gemm).items()]
