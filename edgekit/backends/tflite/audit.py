"""Audit of a file in XNNPACK: how many operators it takes in how many partitions, which GEMMs run in int8."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from typing import Any

import numpy as np

from edgekit.artifact import Artifact
from edgekit.backends.tflite.runner import Runtime, open_interpreter

_GEMMS = frozenset({"FULLY_CONNECTED", "CONV_2D"})
_DELEGATE = "DELEGATE"


def audit_file(artifact: Artifact, runtime: Runtime) -> dict[str, object]:
    """Load as the runner does and read the execution plan.

    Returns:
        `partitions`: runs of operators that XNNPACK took, one after the other (1 is best); `outside_xnnpack` counts the
        operators it left to the built-in kernels. Of the GEMMs with fixed weights, `gemms_int8` multiply int8 by int8,
        `gemms_int16` int16 by int8, `gemms_float` floats, `gemms_int8_weights` of which from stored integers;
        `static_inputs` counts those whose input is held to a range of the plan.
    """
    interpreter = open_interpreter(artifact, 1, runtime)
    nodes: list[dict[str, Any]] = interpreter._get_ops_details()
    tensors = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    producers = {output: node for node in nodes if node["op_name"] != _DELEGATE for output in node["outputs"]}
    delegates = [node for node in nodes if node["op_name"] == _DELEGATE]
    taken = set[int]().union(*(_inside(node, producers) for node in delegates)) if delegates else set[int]()
    own = [node for node in nodes if node["op_name"] != _DELEGATE]
    gemms = [node for node in own if node["op_name"] in _GEMMS]
    stored = [_source(node["inputs"][1], producers) for node in gemms]
    integer = [tensors[node["inputs"][1]]["dtype"] == np.int8 for node in gemms]
    wide = [tensors[node["inputs"][0]]["dtype"] == np.int16 for node in gemms]
    # a product of a tensor with itself is w8a16's sum of squares
    products = [node for node in own if node["op_name"] == "BATCH_MATMUL" and len(set(node["inputs"])) == 2]
    in_float = [tensors[node["inputs"][0]]["dtype"] == np.float32 for node in products]
    return {
        "runtime": f"{runtime.replace('_', '-')} {version(runtime)}",
        "operators": len(own),
        "partitions": len(delegates),
        "outside_xnnpack": dict(sorted(Counter(node["op_name"] for node in own if node["index"] not in taken).items())),
        "gemms": len(gemms),
        "gemms_int8": sum(integer) - sum(wide),
        "gemms_int16": sum(wide),
        "gemms_float": len(gemms) - sum(integer),
        "gemms_int8_weights": sum(tensors[index]["dtype"] == np.int8 for index in stored),
        "static_inputs": sum(_is_ranged(node["inputs"][0], producers) for node in gemms),
        "attention_fused": sum(node["op_name"] == "STABLEHLO_COMPOSITE" for node in own),
        "attention_products_float": sum(in_float),
        "attention_products_int16": len(in_float) - sum(in_float),
        "ops": dict(sorted(Counter(node["op_name"] for node in own).items())),
    }


def _inside(delegate: dict[str, Any], producers: dict[int, dict[str, Any]]) -> set[int]:
    """Indices of the operators that a delegate replaced: all between its outputs and its inputs."""
    boundary = {int(index) for index in delegate["inputs"]}
    waiting, inside = [int(index) for index in delegate["outputs"]], set[int]()
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node["index"] in inside:
            continue
        inside.add(node["index"])
        waiting += [int(index) for index in node["inputs"] if int(index) not in boundary]
    return inside


def _source(index: int, producers: dict[int, dict[str, Any]]) -> int:
    """The constant behind a DEQUANTIZE."""
    node = producers.get(int(index))
    return int(node["inputs"][0]) if node is not None and node["op_name"] == "DEQUANTIZE" else int(index)


def _is_ranged(index: int, producers: dict[int, dict[str, Any]]) -> bool:
    """Whether that tensor is clipped to a range, or joined from token groups that are."""
    node = producers.get(int(index))
    return node is not None and node["op_name"] in {"MINIMUM", "CONCATENATION"}
