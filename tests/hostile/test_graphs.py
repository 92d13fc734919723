"""ONNX files as checkpoints: graphs that never end, lie about their constants, or lack what nodes need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.models.checkpoint import load_checkpoint
from tests.support.hostile import refused

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

_ANCHOR = "patch_embed.proj.weight"


def _anchor() -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros((128, 3, 14, 14), np.float32), _ANCHOR)


def _token(name: str = "cls") -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros((1, 1, 128), np.float32), name)


def _raw(name: str, dims: list[int], data: bytes, kind: int = TensorProto.FLOAT) -> onnx.TensorProto:
    return TensorProto(name=name, dims=dims, raw_data=data, data_type=kind)


def _scoped(text: str) -> onnx.NodeProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    entry = node.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", text
    return node


_W = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
_CHAIN = [helper.make_node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(20_000)]
_DIAMONDS = [
    node
    for i in range(40)
    for node in (
        helper.make_node("Reshape", [f"d{i}", "shape"], [f"a{i}"]),
        helper.make_node("Reshape", [f"d{i}", "shape"], [f"b{i}"]),
        helper.make_node("Identity", [f"a{i}", f"b{i}"], [f"d{i + 1}"]),
        helper.make_node("Transpose", [f"b{i}"], [f"d{i + 1}x"]),
        helper.make_node("Flatten", [f"a{i}"], [f"d{i + 1}"]),
        helper.make_node("Flatten", [f"b{i}"], [f"d{i + 1}"]),
    )
]
# case -> (nodes, initializers beside the anchor)
_GRAPHS: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]] = {
    "an empty graph": ([], []),
    "identities that feed each other": (
        [
            helper.make_node("Identity", ["a"], ["b"]),
            helper.make_node("Identity", ["b"], ["a"]),
            helper.make_node("MatMul", ["x", "a"], ["y"]),
        ],
        [],
    ),
    "a transpose that feeds itself": (
        [helper.make_node("Transpose", ["a"], ["a"]), helper.make_node("Gemm", ["x", "a"], ["y"])],
        [],
    ),
    "moves in a circle below a token": (
        [
            helper.make_node("Reshape", ["cls", "p"], ["p"]),
            helper.make_node("Cast", ["p"], ["q"]),
            helper.make_node("Squeeze", ["q"], ["p"]),
        ],
        [_token()],
    ),
    "a circle above a concat": (
        [
            helper.make_node("Resize", ["p"], ["q"]),
            helper.make_node("Flatten", ["q"], ["p"]),
            helper.make_node("Concat", ["cls", "p"], ["y"], axis=1),
        ],
        [_token()],
    ),
    "2^40 ways through diamonds": ([helper.make_node("Reshape", ["cls", "s"], ["d0"]), *_DIAMONDS], [_token()]),
    "a chain of 20,000": (
        [helper.make_node("Identity", ["cls"], ["v0"]), *_CHAIN, helper.make_node("MatMul", ["x", "v20000"], ["y"])],
        [_token()],
    ),
    "2,000 tokens over 2,000 nodes": (
        [helper.make_node("Concat", [f"t{i}" for i in range(1500)], ["v0"], axis=1)]
        + [helper.make_node("Identity", ["v0"], [f"w{i}"]) for i in range(1500)],
        [_token(f"t{i}") for i in range(1500)],
    ),
    "MatMul without inputs": ([helper.make_node("MatMul", [], ["y"])], []),
    "MatMul of one input": ([helper.make_node("MatMul", ["x"], ["y"])], []),
    "Gemm without outputs": ([helper.make_node("Gemm", ["x", "w", "b"], [])], [_W]),
    "Gemm whose bias is nowhere": ([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], [_W]),
    "Transpose without inputs": (
        [helper.make_node("Transpose", [], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])],
        [],
    ),
    "moves without outputs": ([helper.make_node("Reshape", ["cls"], [])], [_token()]),
    "moves without inputs": (
        [helper.make_node("Resize", [], ["p"]), helper.make_node("Concat", ["cls", "p"], ["y"], axis=1)],
        [_token()],
    ),
    "too few bytes": ([], [_raw("a", [4, 4], b"\0" * 5)]),
    "too many bytes": ([], [_raw("a", [2], b"\0" * 500)]),
    "negative dimensions": ([], [_raw("a", [-1, -4], b"\0" * 16)]),
    "dimensions of 2^62": ([], [_raw("a", [2**62, 2**62], b"\0" * 16)]),
    "no bytes for 1e12 numbers": ([], [_raw("a", [10**6, 10**6], b"")]),
    "a scope that is no list": ([_scoped("5")], [_W]),
    "a scope that is code": ([_scoped("__import__('os').system('true')")], [_W]),
    "a scope that is deep": ([_scoped("[" * 5000)], [_W]),
    "a scope of numbers": ([_scoped("[1, 2, 3]")], [_W]),
    "an anchor of another rank": ([], [numpy_helper.from_array(np.zeros(5, np.float32), "x." + _ANCHOR)]),
}


@pytest.mark.parametrize("case", _GRAPHS)
def test_a_hostile_graph_is_refused(tmp_path: Path, case: str) -> None:
    nodes, tensors = _GRAPHS[case]
    graph = helper.make_graph(nodes, "g", [], [], [_anchor(), *tensors])
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
    refused(lambda: load_checkpoint(tmp_path / "m.onnx"))


def _external(location: str, length: str = "2408448", offset: str = "0") -> Callable[[onnx.TensorProto], None]:
    def change(tensor: onnx.TensorProto) -> None:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


_EXTERNAL = {
    "a file outside": _external("../secret"),
    "an absolute path": _external("/etc/passwd"),
    "a device": _external("/dev/zero"),
    "a link out": _external("link"),
    "a pipe": _external("pipe"),
    "nothing": _external(""),
    "missing": _external("missing"),
    "a length that is no number": _external("data", length="abc"),
    "a negative length": _external("data", length="-5"),
    "a length of 2^62": _external("data", length=str(2**62)),
    "an offset beyond the end": _external("data", offset=str(10**9)),
    "a negative offset": _external("data", offset="-1"),
    "the file itself": _external("m.onnx"),
    "a NUL": _external("a\0b"),
}


@pytest.mark.parametrize("case", _EXTERNAL)
def test_constants_that_lie_elsewhere_are_refused(tmp_path: Path, case: str) -> None:
    import os

    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 4_000_000)
    (folder / "data").write_bytes(b"\0" * 100)
    (folder / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    anchor = _anchor()
    _EXTERNAL[case](anchor)
    graph = helper.make_graph([], "g", [], [], [anchor])
    (folder / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    refused(lambda: load_checkpoint(folder / "m.onnx"))


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "bool", "uint8", "complex64"])
def test_a_patch_embedding_of_another_type_is_refused(tmp_path: Path, kind: str) -> None:
    tensor = numpy_helper.from_array(np.zeros((128, 3, 14, 14), kind), _ANCHOR)
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [tensor])), tmp_path / "m.onnx")
    refused(lambda: load_checkpoint(tmp_path / "m.onnx"))
