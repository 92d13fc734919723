"""Weights out of an existing float ONNX export, under the names its exporter left in initializers and node scopes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.errors import BackendMissing, DataError
from edgekit.models.config import Interpolation
from edgekit.models.keys import ANCHORS, find_backbone

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

_POSITION_KEY = {"official": "pos_embed", "huggingface": "embeddings.position_embeddings"}
_MOVES = {
    "Reshape",
    "Transpose",
    "Cast",
    "Resize",
    "Identity",
    "Unsqueeze",
    "Squeeze",
    "Flatten",
}  # keep the values' identity


@dataclass(frozen=True)
class OnnxExport:
    """State dict of the graph, and how it resizes position embeddings (None: it does not, they are baked)."""

    state: dict[str, Tensor]
    interpolation: Interpolation | None


def read_onnx(path: Path) -> OnnxExport:
    """State dict of an ONNX export of DINOv2.

    Exporters keep the names of biases and norms, but store the weight of a linear layer transposed under a number;
    its name is then the scope of the MatMul that reads it ("/encoder/layer.0/mlp/fc1/MatMul"). Position embeddings
    split into class and patch part by the exporter are found by where they flow: patch part -> Resize -> Concat.

    Raises:
        BackendMissing: the `onnx` package is not installed.
        DataError: unreadable, truncated, or no named DINOv2 weights inside.
    """
    try:
        import onnx
    except ImportError:
        raise BackendMissing(
            "reading an ONNX checkpoint needs the onnx package", fix="pip install 'edgekit[onnx]'"
        ) from None
    try:
        graph = onnx.load(path).graph
    except Exception as error:  # protobuf, checker and external-data errors share no base class
        raise DataError(
            f"{path} is not a readable ONNX file",
            why=str(error).splitlines()[0] if str(error) else "truncated",
            fix="export or download it again",
        ) from None
    view = _Graph(graph)
    state = view.state()
    found = find_backbone(state)
    if found is None:
        raise DataError(
            f"{path} holds no DINOv2 backbone that can be recognised",
            why="no initializer is named " + " or ".join(ANCHORS.values()),
            fix="use the checkpoint it was exported from",
        )
    layout, prefix = found
    key = prefix + _POSITION_KEY[layout]
    if key not in state:
        state[key] = view.position_embedding(state[prefix + ANCHORS[layout]].shape[0], path)
    return OnnxExport(state, view.interpolation())


class _Graph:
    """Look-ups over one graph: who makes a value, who reads it."""

    def __init__(self, graph: GraphProto) -> None:
        from onnx import numpy_helper

        self.nodes = list(graph.node)
        self.tensors = {
            t.name: torch.from_numpy(numpy_helper.to_array(t).copy())
            for t in graph.initializer
            if t.data_type in (1, 10, 11)
        }  # float32, float16, float64
        self.producer = {output: node for node in self.nodes for output in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for value in node.input:
                self.readers[value].append(node)

    def state(self) -> dict[str, Tensor]:
        """Every float initializer under its own name, and linear weights as (out, in) under their layer's name."""
        state = dict(self.tensors)
        for node in self.nodes:
            if node.op_type not in ("MatMul", "Gemm"):
                continue
            name, transposed = self._origin(node.input[1])
            if name is None or self.tensors[name].ndim != 2:
                continue
            if node.op_type == "Gemm":
                transposed ^= any(a.name == "transB" and a.i for a in node.attribute)
            weight = self.tensors[name] if transposed else self.tensors[name].T
            scope = node.name.strip("/").rpartition("/")[0].replace("/", ".")
            state.pop(name, None)
            state[name if name.endswith(".weight") else f"{scope}.weight"] = weight.contiguous()
            if node.op_type == "Gemm" and len(node.input) > 2 and not node.input[2].endswith(".bias"):
                state[f"{scope}.bias"] = self.tensors[node.input[2]]
        return state

    def _origin(self, value: str) -> tuple[str | None, bool]:
        """Initializer behind a value and whether it is transposed on the way."""
        transposed = False
        while value not in self.tensors:
            node = self.producer.get(value)
            if node is None or node.op_type not in ("Transpose", "Identity", "Cast"):
                return None, False
            transposed ^= node.op_type == "Transpose"
            value = node.input[0]
        return value, transposed

    def position_embedding(self, width: int, path: Path) -> Tensor:
        """(1, 1 + patches, D) from an unnamed initializer: whole, or as patch part joined to its class part."""
        rows = [n for n, t in self.tensors.items() if t.ndim == 3 and t.shape[0] == 1 and t.shape[2] == width]
        for name in (n for n in rows if self.tensors[n].shape[1] > 1 and not n.endswith("register_tokens")):
            for node in self._downstream(name):
                if node.op_type == "Concat":
                    for first in node.input:
                        if first in rows and self.tensors[first].shape[1] == 1:
                            return torch.cat((self.tensors[first], self.tensors[name]), dim=1)
                if node.op_type == "Add" and name in node.input:
                    return self.tensors[name]
        raise DataError(
            f"{path} holds no position embedding that can be recognised", fix="use the checkpoint it was exported from"
        )

    def _downstream(self, value: str) -> Iterator[NodeProto]:
        """Readers of a value, and of what they make as long as they only move or resize it."""
        for node in self.readers[value]:
            yield node
            if node.op_type in _MOVES:
                yield from self._downstream(node.output[0])

    def interpolation(self) -> Interpolation | None:
        """The variant by which a cubic Resize in the graph resizes position embeddings."""
        for node in self.nodes:
            attributes = {a.name: a for a in node.attribute}
            if node.op_type == "Resize" and "mode" in attributes and attributes["mode"].s == b"cubic":
                if "antialias" in attributes and attributes["antialias"].i:
                    return "antialias"
                return "size" if len(node.input) > 3 and node.input[3] else "offset"
        return None
