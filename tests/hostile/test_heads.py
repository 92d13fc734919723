"""Files of heads that lie, are damaged, or are no files."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgekit.heads.read import read_head
from tests.support.hostile import refused
from tests.support.models import TINY

State = dict[str, Any]
_NAN, _INF = float("nan"), float("inf")


def _linear() -> State:
    return {"weight": torch.ones(3, 256), "bias": torch.zeros(3)}


def _gallery() -> State:
    return {"gallery": torch.rand(6, 128) + 0.1, "labels": torch.tensor([0, 1, 2, 0, 1, 2])}


def _segmenter() -> State:
    norm = {f"bn.{part}": torch.ones(128) for part in ("weight", "bias", "running_mean", "running_var")}
    return {"conv_seg.weight": torch.rand(5, 128, 1, 1), "conv_seg.bias": torch.zeros(5), **norm}


@pytest.mark.parametrize("make", [_linear, _gallery, _segmenter], ids=lambda make: make.__name__)
def test_the_untouched_heads_are_read(tmp_path: Path, make: Callable[[], State]) -> None:
    state = make()
    torch.save({"state_dict": {f"decode_head.{key}": value for key, value in state.items()}}, tmp_path / "h.pth")
    save_file(state, tmp_path / "h.safetensors")
    for name in ("h.pth", "h.safetensors"):
        assert read_head(tmp_path / name, TINY).shape((5, 5))


def test_a_head_that_was_saved_with_its_parameters_is_read(tmp_path: Path) -> None:
    torch.save({key: torch.nn.Parameter(value) for key, value in _linear().items()}, tmp_path / "h.pth")
    assert read_head(tmp_path / "h.pth", TINY).shape((5, 5)) == (3,)


def _with(make: Callable[[], State], key: str, value: Any) -> Callable[[], Any]:
    return lambda: make() | {key: value}


def _deep() -> Any:
    tree: Any = _linear()
    for _ in range(300):
        tree = {"a": tree}
    return tree


def _cyclic() -> Any:
    tree: Any = _linear()
    tree["state_dict"] = tree
    return tree


_STATES: dict[str, Callable[[], Any]] = {
    "nothing": dict,
    "none": lambda: None,
    "a list": lambda: [torch.ones(3)],
    "a tensor": lambda: torch.ones(3, 256),
    "a number": lambda: 5,
    "a text": lambda: "weight",
    "state_dict of nothing": lambda: {"state_dict": {}},
    "state_dict is none": lambda: {"state_dict": None},
    "state_dict is a list": lambda: {"state_dict": [1, 2]},
    "numbers for tensors": lambda: {"weight": 1, "bias": 2},
    "deep": _deep,
    "cyclic": _cyclic,
    "strides of 0": _with(_linear, "weight", torch.zeros(1).expand(10_000_000, 256)),
    "strides of 0 elsewhere": _with(_linear, "other", torch.zeros(1).expand(2_600_000_000)),
    "sparse": _with(_linear, "weight", torch.ones(3, 256).to_sparse()),
    "quantized": _with(_linear, "weight", torch.quantize_per_tensor(torch.ones(3, 256), 0.1, 0, torch.qint8)),
    "meta": _with(_linear, "weight", torch.ones(3, 256, device="meta")),
    **{
        f"weights of {kind}": _with(_linear, "weight", torch.ones(3, 256).to(getattr(torch, kind)))
        for kind in ("int8", "uint8", "int32", "int64", "bool", "complex64", "float8_e4m3fn")
    },
    **{f"weights {value}": _with(_linear, "weight", torch.full((3, 256), value)) for value in (_NAN, _INF, -_INF)},
    **{
        f"weights of shape {shape}": _with(_linear, "weight", torch.ones(shape))
        for shape in ((0, 256), (3, 0), (3, 255), (3, 256, 1), (256,), (), (3, 128), (3, 384))
    },
    **{f"bias of shape {shape}": _with(_linear, "bias", torch.ones(shape)) for shape in ((4,), (), (3, 1, 1, 7), (0,))},
    "no bias": lambda: {"weight": torch.ones(3, 256)},
    "labels of 1e9": _with(_gallery, "labels", torch.tensor([0, 1, 2, 0, 1, 10**9])),
    "labels of -1": _with(_gallery, "labels", torch.tensor([0, 1, 2, 0, 1, -1])),
    "labels of nothing": _with(_gallery, "labels", torch.zeros(0, dtype=torch.int64)),
    "labels 2-d": _with(_gallery, "labels", torch.zeros(6, 1)),
    "labels 0-d": _with(_gallery, "labels", torch.tensor(6)),
    "labels NaN": _with(_gallery, "labels", torch.full((6,), _NAN)),
    "too few labels": _with(_gallery, "labels", torch.tensor([0, 1])),
    "no labels": lambda: {"gallery": torch.ones(6, 128)},
    "an empty gallery": lambda: {"gallery": torch.zeros(0, 128), "labels": torch.zeros(0, dtype=torch.int64)},
    "a gallery of another width": _with(_gallery, "gallery", torch.ones(6, 127)),
    "a gallery of zeros": _with(_gallery, "gallery", torch.zeros(6, 128)),
    "a gallery of NaN": _with(_gallery, "gallery", torch.full((6, 128), _NAN)),
    "a gallery 1-d": _with(_gallery, "gallery", torch.ones(6)),
    "conv_seg 1-d": _with(_segmenter, "conv_seg.weight", torch.ones(5)),
    "conv_seg 2-d": _with(_segmenter, "conv_seg.weight", torch.ones(5, 128)),
    "conv_seg of nothing": _with(_segmenter, "conv_seg.weight", torch.ones(0, 128, 1, 1)),
    "conv_seg of another width": _with(_segmenter, "conv_seg.weight", torch.ones(5, 100, 1, 1)),
    "negative variance": _with(_segmenter, "bn.running_var", torch.full((128,), -5.0)),
    "variance of another length": _with(_segmenter, "bn.running_var", torch.ones(3)),
    "conv_depth 0-d": lambda: {"conv_depth.weight": torch.tensor(1.0), "conv_depth.bias": torch.ones(1)},
    "conv_depth 1-d": lambda: {"conv_depth.weight": torch.ones(7), "conv_depth.bias": torch.ones(1)},
    "a DPT of one tensor": lambda: {"reassemble_blocks.projects.0.conv.weight": torch.ones(1, 128, 1, 1)},
    "a DPT 0-d": lambda: {"reassemble_blocks.projects.0.conv.weight": torch.tensor(1.0)},
}


@pytest.mark.parametrize("case", _STATES)
def test_a_hostile_head_is_refused(tmp_path: Path, case: str) -> None:
    torch.save(_STATES[case](), tmp_path / "h.pth")
    refused(lambda: read_head(tmp_path / "h.pth", TINY))


_CLASSES: dict[str, str] = {
    "no json": "x",
    "an object": "{}",
    "a text": '"abc"',
    "numbers": "[1, 2, 3]",
    "nulls": "[null, null, null]",
    "too many": json.dumps([str(i) for i in range(30)]),
    "deep": "[" * 100_000,
    "long": json.dumps(["x" * 5000] * 3),
    "larger than any": json.dumps(["x" * 900] * 20_000),
}


@pytest.mark.parametrize("case", _CLASSES)
def test_names_of_classes_that_cannot_be_are_refused(tmp_path: Path, case: str) -> None:
    tensors: dict[str, Tensor] = _linear()
    save_file(tensors, tmp_path / "h.safetensors", metadata={"classes": _CLASSES[case]})
    refused(lambda: read_head(tmp_path / "h.safetensors", TINY))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx", ""])
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "loop", "/dev/zero", "/proc/self/mem", "empty", "code"])
def test_what_is_no_head_is_not_waited_for(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"h{suffix}"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "empty":
            path.touch()
        case "code":
            path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
        case "missing":
            pass
        case device:
            path.symlink_to(device)
    refused(lambda: read_head(path, TINY))
    assert not Path("ran").exists()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_head_that_is_cut_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"h{suffix}"
    (torch.save if suffix == ".pth" else save_file)(_linear(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(lambda: read_head(path, TINY))


def test_a_head_of_compressed_records_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3, 256), "bias": torch.zeros(3)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "h.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    refused(lambda: read_head(tmp_path / "h.pth", TINY))
