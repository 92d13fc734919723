"""Reads the CPU plugin's execution graph of an IR: GEMMs in int8, attention in one kernel, reference code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import openvino as ov

from edgekit.native.blocks import ATTENTION, BLOCK, FLOAT_BLOCK

_GEMM_LAYERS = frozenset({"FullyConnected", "Convolution", "MatMul"})
_FUSED_ATTENTION_LAYERS = frozenset({"Subgraph", "ScaledDotProductAttention"})
_HEAD = ".head"  # suffix of the part of a GEMM that takes the first tokens
_INT8 = frozenset({"i8", "u8"})


@dataclass(frozen=True)
class _Executed:
    """One node of the execution graph. `sources` are its own name and those of the IR nodes fused into it."""

    layer: str
    primitive: str
    precision: str
    sources: tuple[str, ...]

    @classmethod
    def read(cls, node: ov.Node) -> _Executed:
        info = node.get_rt_info()
        layer, primitive, precision, sources = (
            info[key].astype(str) for key in ("layerType", "primitiveType", "runtimePrecision", "originalLayersNames")
        )
        return cls(layer, primitive, precision, (node.get_friendly_name(), *sources.split(",")))

    def computes(self, name: str) -> bool:
        """Whether it is the GEMM of that module path.

        The plugin's own rewrites drop the MatMul's name but keep that of its bias or dequantization behind a slash;
        a fused quantizer of the next GEMM carries that one's name and does not count.
        """
        own = (source for source in self.sources if not source.endswith("/quantized"))
        return self.layer in _GEMM_LAYERS and any(source.split("/")[0] == name for source in own)

    @property
    def is_own(self) -> bool:
        """Whether it is one of edgekit's ops, which the plugin counts as reference code."""
        return any(source.endswith((f"/{BLOCK}", f"/{FLOAT_BLOCK}", f"/{ATTENTION}")) for source in self.sources)

    @property
    def kind(self) -> str:
        """ "int8", "weight only" (int8 weights dequantized in a float kernel) or "float"."""
        if self.precision not in _INT8:
            return "float"
        return "int8" if self.primitive.lower().endswith(("_i8", "_u8")) else "weight only"


def audit_model(model: ov.Model, core: ov.Core, settings: dict[str, Any]) -> dict[str, object]:
    """Compile for one image and read the execution graph.

    Args:
        model: as read from the IR; its batch is set to 1.
        core: that knows the ops of the model.
        settings: plugin configuration, the runner's own.

    Returns:
        Counts, and the names of the GEMMs with quantized inputs that nevertheless do not run in int8.
        `gemms_weight_only` keep int8 weights that a float kernel dequantizes; `quantizers_apart` are quantizers
        that cost a pass of their own over the tensor; `fallbacks` counts layers in the plugin's reference code.
    """
    nodes = model.get_ordered_ops()
    gemms = [node for node in nodes if node.get_type_name() in {"MatMul", "Convolution"} and _has_fixed_weights(node)]
    planned = {
        node.get_friendly_name()
        for node in gemms
        if _producer(node, 0).get_type_name() == "FakeQuantize" and _producer(node, 1).get_type_name() != "Constant"
    }
    attentions = [node.get_friendly_name() for node in nodes if node.get_type_name() == "ScaledDotProductAttention"]
    model.reshape({model.input(0): [1, *list(model.input(0).get_partial_shape())[1:]]})
    compiled = core.compile_model(model, "CPU", settings)
    executed = [_Executed.read(node) for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = {
        name: next((node.kind for node in executed if node.computes(name)), "untraced")
        for name in (node.get_friendly_name() for node in gemms)
    }
    whole = {name: kind for name, kind in kinds.items() if not name.endswith(_HEAD)}
    for name, kind in kinds.items():  # a GEMM with token groups is two; as one it is what the worse of them is
        if name.endswith(_HEAD) and kind != "int8":
            whole[name.removesuffix(_HEAD)] = kind
    count = Counter(whole.values())
    own = Counter(node.get_type_name() for node in nodes)
    integer_blocks, float_blocks, attentions_own = own[BLOCK], own[FLOAT_BLOCK], own[ATTENTION]
    blocks = integer_blocks + float_blocks  # four GEMMs and an attention each
    fallbacks = Counter(n.layer for n in executed if n.primitive.startswith("ref") and not n.is_own)
    return {
        "runtime": f"openvino {ov.__version__.split('-')[0]}",
        "gemms": len(whole) + 4 * blocks,
        "gemms_int8": count["int8"] + 4 * integer_blocks,
        "gemms_weight_only": count["weight only"],
        "gemms_float": count["float"] + 4 * float_blocks,
        "gemms_untraced": count["untraced"],
        "planned_but_not_int8": sorted(name for name in planned if kinds[name] != "int8"),
        "attention_blocks": len(attentions) + blocks + attentions_own,
        "attention_fused": sum(_is_fused(name, executed) for name in attentions) + blocks + attentions_own,
        "blocks_fused": blocks,
        "quantizers_apart": sum(node.layer == "FakeQuantize" for node in executed),
        "fallbacks": dict(sorted(fallbacks.items())),
    }


def _producer(node: ov.Node, port: int) -> ov.Node:
    return node.input_value(port).get_node()


def _has_fixed_weights(node: ov.Node) -> bool:
    """Whether its second input hangs on a constant: a weight GEMM, not an attention product."""
    source = _producer(node, 1)
    while source.get_type_name() in {"Convert", "Multiply", "Subtract", "Reshape", "FakeQuantize"}:
        source = _producer(source, 0)
    return bool(source.get_type_name() == "Constant")


def _is_fused(name: str, executed: list[_Executed]) -> bool:
    """Whether both products and the softmax of that attention run inside one kernel."""
    return any(
        node.layer in _FUSED_ATTENTION_LAYERS
        and name in node.sources
        and (node.layer != "Subgraph" or any(source.startswith("Softmax") for source in node.sources))
        for node in executed
    )
