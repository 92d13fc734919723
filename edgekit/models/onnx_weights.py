"""Weights out of an existing float ONNX export, under the names its exporter left in initializers and node scopes."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.errors import BackendMissing, DataError
from edgekit.models.config import Interpolation
from edgekit.models.keys import LAYOUTS, find_backbone

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_OFFICIAL = "official"  # whose names any layout may have, too
_TOKEN_KEYS: dict[str, dict[str, str]] = {
    _OFFICIAL: {"cls": "cls_token", "position": "pos_embed", "registers": "register_tokens"},
    "huggingface": {
        "cls": "embeddings.cls_token",
        "position": "embeddings.position_embeddings",
        "registers": "embeddings.register_tokens",
    },
}
# operators that move, cast or resize values without mixing channels
_MOVES = {"Reshape", "Transpose", "Cast", "Resize", "Identity", "Unsqueeze", "Squeeze", "Flatten"}
_MOST_VISITS = 2_000_000  # of nodes in all walks; ViT-g takes some thousand
_MOST_SCOPE = 10_000  # characters of a module path
_FLOATS = (1, 10, 11)  # TensorProto float32, float16, float64
_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch's dynamo exporter keeps module paths
_NORMALIZES = re.compile(r'"normalize":\s*"graph"')  # in the manifest that edgekit's exports carry
_FOLDED_TAIL = ".attn.qkv.weight"


@dataclass(frozen=True)
class OnnxExport:
    """State dict of the graph, and what it says that shapes do not.

    `interpolation` and `grid` exclude each other: a graph either resizes position embeddings or has them fixed to the
    (rows, columns) of its static input; both are None when neither can be seen.
    """

    state: dict[str, Tensor]
    interpolation: Interpolation | None
    grid: tuple[int, int] | None


def read_onnx(path: Path) -> OnnxExport:
    """State dict of a float ONNX export of DINOv2 made by torch (either exporter), optimum or edgekit.

    Exporters keep the names of biases and norms, but store the weight of a linear layer transposed under a number;
    its name is then the scope of the MatMul that reads it ("/encoder/layer.0/mlp/fc1/MatMul"). Tokens and position
    embeddings that lost their name to constant folding are told apart by who reads them.

    Raises:
        BackendMissing: the `onnx` package is not installed.
        DataError: unreadable, truncated, quantized, rewritten by edgekit, or no named DINOv2 weights inside.
    """
    try:
        import onnx
    except ImportError:
        raise BackendMissing("reading an ONNX file needs the onnx package", fix="pip install 'edgekit[onnx]'") from None
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf, checker and external-data errors share no base class
        why = str(error).splitlines()[0] if str(error) else "truncated"
        raise DataError(f"{path} is not a readable ONNX file", why=why, fix="export or download it again") from None
    try:
        view = _Graph(model.graph)
        return _export(view, model, path)
    except DataError:
        raise
    except Exception as error:  # numpy's, protobuf's and Python's own, of a graph that is not what it says
        raise DataError(
            f"{path} is not a readable ONNX file",
            why=f"{type(error).__name__}: {str(error)[:200]}",
            fix="export or download it again",
        ) from error


def _export(view: _Graph, model: ModelProto, path: Path) -> OnnxExport:
    """The contents of the graph. Raises DataError as `read_onnx`."""
    state = view.state()
    found = find_backbone(state)
    if found is None:
        raise DataError(
            f"{path} holds no DINOv2 backbone that can be recognised",
            why="no initializer is named " + " or ".join(each.anchor for each in LAYOUTS.values()),
            fix="use the checkpoint it was exported from",
        )
    layout, prefix = found
    name = prefix + LAYOUTS[layout].anchor
    anchor = state[name]
    if anchor.ndim != 4:
        raise DataError(f"{path}: {name} has shape {tuple(anchor.shape)}", fix="export or download it again")
    width, *_, patch = anchor.shape
    for part, tokens in view.tokens(width).items():
        state.setdefault(prefix + _TOKEN_KEYS.get(layout, _TOKEN_KEYS[_OFFICIAL])[part], tokens)
    if model.producer_name == "edgekit":
        _undo_rewrites(state, model, path)
    interpolation = view.interpolation()
    return OnnxExport(state, interpolation, None if interpolation else _static_grid(model.graph, patch))


def _static_grid(graph: GraphProto, patch: int) -> tuple[int, int] | None:
    """The patch grid (rows, columns) of a static input (B, 3, H, W), None when H or W is symbolic."""
    if not graph.input:
        return None
    sides = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim][2:4]
    return (sides[0] // patch, sides[1] // patch) if len(sides) == 2 and all(sides) else None


def _undo_rewrites(state: dict[str, Tensor], model: ModelProto, path: Path) -> None:
    """Take back what edgekit's export folds into weights, or refuse where that cannot be done exactly."""
    if any(_NORMALIZES.search(entry.value) for entry in model.metadata_props if entry.key.startswith("edgekit")):
        raise DataError(f"{path} normalises pixels inside the graph", fix="use the checkpoint it was exported from")
    if "rope.cos" in state:
        raise DataError(f"{path} has rotary positions of one image size", fix="use the checkpoint it was exported from")
    rewritten = sorted(key for key in state if key == "unrotate" or key.endswith("fc2_gain"))
    if rewritten:
        raise DataError(
            f"{path} was rewritten for quantization ({rewritten[0]})", fix="use the checkpoint it was exported from"
        )
    for key in [key for key in state if key.endswith(_FOLDED_TAIL)]:
        block = key.removesuffix(_FOLDED_TAIL)
        if state.pop(f"{block}.attn.scale", None) is None:
            raise DataError(
                f"{path} has the attention scale folded into {key}", fix="use the checkpoint it was exported from"
            )


class _Graph:
    """Look-ups over one graph: who makes a value, who reads it."""

    def __init__(self, graph: GraphProto) -> None:
        from onnx import numpy_helper

        self.nodes = list(graph.node)
        self._visits = 0
        self.tensors = {
            t.name: torch.from_numpy(numpy_helper.to_array(t).copy())
            for t in graph.initializer
            if t.data_type in _FLOATS
        }
        self.producer = {output: node for node in self.nodes for output in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for value in node.input:
                self.readers[value].append(node)

    def state(self) -> dict[str, Tensor]:
        """Every float initializer under its own name, and linear weights as (out, in) under their layer's name."""
        state = dict(self.tensors)
        for node in self.nodes:
            if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
                continue
            name, transposed = self._origin(node.input[1])
            if name is None or self.tensors[name].ndim != 2:
                continue
            if node.op_type == "Gemm":
                transposed ^= any(a.name == "transB" and a.i for a in node.attribute)
            weight = self.tensors[name] if transposed else self.tensors[name].T
            state.pop(name, None)
            state[name if name.endswith(".weight") else f"{_scope(node)}.weight"] = weight.contiguous()
            bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
            if bias in self.tensors and not bias.endswith(".bias"):
                state[f"{_scope(node)}.bias"] = self.tensors[bias]
        return state

    def _origin(self, value: str) -> tuple[str | None, bool]:
        """Initializer behind a value and whether it is transposed on the way."""
        transposed, passed = False, set()
        while value not in self.tensors:
            node = self.producer.get(value)
            if node is None or node.op_type not in ("Transpose", "Identity", "Cast") or value in passed:
                return None, False
            if not node.input:
                return None, False
            passed.add(value)
            transposed ^= node.op_type == "Transpose"
            value = node.input[0]
        return value, transposed

    def tokens(self, width: int) -> dict[str, Tensor]:
        """CLS token, registers and position embedding (1, n, D) by their readers: what joins the patches is the CLS
        token, what is added to a sequence is the position embedding, what joins a sequence later are registers."""
        found: dict[str, Tensor] = {}
        candidates = {n: t for n, t in self.tensors.items() if t.ndim == 3 and t.shape[2] == width}
        for name, tensor in candidates.items():
            for node in self._downstream(name):
                if node.op_type == "Add" and tensor.shape[1] > 1:
                    found["position"] = tensor[:1]
                elif node.op_type == "Concat" and any(self._are_patches(value) for value in node.input):
                    found["cls"] = tensor[:1]
                elif node.op_type == "Concat" and tensor.shape[1] > 1:
                    classes = [candidates[v] for v in node.input if v in candidates and candidates[v].shape[1] == 1]
                    if classes:  # split by the exporter: class part, then the resized patch part
                        found["position"] = torch.cat((classes[0], tensor), dim=1)
                    else:
                        found["registers"] = tensor[:1]
        return found

    def _downstream(self, value: str) -> Iterator[NodeProto]:
        """Readers of a value, and of what they make as long as they only move or resize it; each node once."""
        waiting, passed = [value], {value}
        while waiting:
            for node in self.readers.get(waiting.pop(), ()):
                self._visits += 1
                if self._visits > _MOST_VISITS:
                    raise DataError(
                        "the graph has too many ways from its constants to their readers",
                        why=f"more than {_MOST_VISITS}: no exporter writes such a graph",
                        fix="use the checkpoint it was exported from",
                    )
                yield node
                if node.op_type in _MOVES:
                    made = [output for output in node.output if output not in passed]
                    passed.update(made)
                    waiting += made

    def _are_patches(self, value: str) -> bool:
        """Whether a value is the output of a convolution, moved."""
        node, passed = self.producer.get(value), set()
        while node is not None and node.op_type in _MOVES and node.input and value not in passed:
            passed.add(value)
            value = node.input[0]
            node = self.producer.get(value)
            self._visits += 1
        return node is not None and node.op_type == "Conv"

    def interpolation(self) -> Interpolation | None:
        """The variant by which a cubic Resize in the graph resizes position embeddings."""
        for node in self.nodes:
            attributes = {a.name: a for a in node.attribute}
            if node.op_type == "Resize" and "mode" in attributes and attributes["mode"].s == b"cubic":
                if "antialias" in attributes and attributes["antialias"].i:
                    return "antialias"
                return "size" if len(node.input) > 3 and node.input[3] else "offset"
        return None


def _scope(node: NodeProto) -> str:
    """Dotted path of the module that a node belongs to, as either torch exporter notes it."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value[:_MOST_SCOPE])  # from the root to the op itself
            return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    return node.name.strip("/").rpartition("/")[0].replace("/", ".")
