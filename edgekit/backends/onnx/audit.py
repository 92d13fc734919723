"""Audit of a file in ONNX Runtime on this CPU: which GEMMs run on integers, which attention is one op."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort

from edgekit.artifact import Artifact
from edgekit.backends.onnx.runner import session_options
from edgekit.native.blocks import ATTENTION, BLOCK, DOMAIN, FLOAT_BLOCK

_INT8 = frozenset(
    {"QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulInteger", "QLinearMatMul", "QLinearConv"}
)
_BLOCKED = "MatMulNBits"  # of 4 or 8 bits
_FLOAT = frozenset({"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv", "FusedConv"})
_WEIGHT_INPUT = {"QGemm": 3, "QLinearMatMul": 3, "QLinearConv": 3}  # others: 1


def audit_file(artifact: Artifact) -> dict[str, object]:
    """Load as the runner does, keep the optimized graph, and count.

    Returns:
        Counts of GEMMs with fixed weights by the kernel that runs them (`gemms_int8`, `gemms_int4`, `gemms_float`, with
        the names of the float ones), of attention products in integers and in float, of attentions and whole blocks
        that are one op, and of all ops.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        options = session_options(artifact, None)
        options.optimized_model_filepath = str(optimized)
        ort.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimized, load_external_data=False).graph
    fixed = {tensor.name for tensor in graph.initializer}
    fixed |= {
        output for node in graph.node if set(node.input) <= fixed for output in node.output
    }  # dequantized weights
    gemms = [node for node in graph.node if node.op_type in _INT8 | _FLOAT | {_BLOCKED}]
    weighted = [node for node in gemms if node.input[_WEIGHT_INPUT.get(node.op_type, 1)] in fixed]
    products = [node for node in gemms if node not in weighted]
    own = Counter(node.op_type for node in graph.node if node.domain == DOMAIN)
    integer_blocks, float_blocks = own[BLOCK], own[FLOAT_BLOCK]
    blocks = integer_blocks + float_blocks  # four GEMMs and an attention each
    kinds: dict[str, set[str]] = {}  # a GEMM with token groups is two nodes
    for node in weighted:
        kinds.setdefault(_module(node), set()).add(_kind(node))
    floats = [name for name, types in kinds.items() if "float" in types]
    return {
        "runtime": f"onnxruntime {ort.__version__}",
        "gemms": len(kinds) + 4 * blocks,
        "gemms_int8": sum(types == {"int8"} for types in kinds.values()) + 4 * integer_blocks,
        "gemms_int4": sum(types == {"int4"} for types in kinds.values()),
        "gemms_float": len(floats) + 4 * float_blocks,
        "float_gemms": sorted(floats) if len(floats) < len(kinds) else [],
        "attention_products_int8": sum(node.op_type in _INT8 for node in products),
        "attention_products_float": sum(node.op_type in _FLOAT for node in products),
        "attention_fused": blocks + own[ATTENTION],
        "blocks_fused": blocks,
        "fused_ops": dict(sorted(own.items())),
        "ops": dict(sorted(Counter(node.op_type for node in graph.node).items())),
    }


def _kind(node: onnx.NodeProto) -> str:
    """Number type that a GEMM's weights are multiplied in."""
    if node.op_type == _BLOCKED:
        return "int" + str(next(attribute.i for attribute in node.attribute if attribute.name == "bits"))
    return "int8" if node.op_type in _INT8 else "float"


def _module(node: onnx.NodeProto) -> str:
    """Path of the layer that a GEMM node belongs to, as far as the optimizer has kept its name."""
    return (node.name or node.output[0]).partition("/")[0].removesuffix(".head").removesuffix(".tail")
