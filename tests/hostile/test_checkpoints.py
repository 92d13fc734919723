"""Checkpoints, configs and indexes that lie, are damaged, or claim any size."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgekit.models.checkpoint import load_checkpoint, save_checkpoint
from edgekit.models.config import ViTConfig
from edgekit.models.vit import random_model
from tests.support.hostile import refused
from tests.support.models import TINY

State = dict[str, Tensor]
_HEADER = asdict(TINY)
_HUB = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "layer_norm_eps": 1e-6}


@pytest.fixture(scope="module")
def state() -> State:
    """The tensors of a good tiny model."""
    return {key: value.clone() for key, value in random_model(TINY).state_dict().items()}


def _header(path: Path, state: State, text: str) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata={"edgekit.config": text})
    return path


def test_the_untouched_checkpoint_loads(state: State, tmp_path: Path) -> None:
    assert load_checkpoint(_header(tmp_path / "m.safetensors", state, json.dumps(_HEADER))).config == TINY
    torch.save({"teacher": {"backbone": state}}, tmp_path / "m.pth")
    assert load_checkpoint(tmp_path / "m.pth").config.depth == TINY.depth


_LIES: list[tuple[str, Any]] = [
    *[("heads", value) for value in (3, -2, 0, 2.5, 1e9, "2", None, [], {}, True, 129, -(10**30))],
    *[("depth", value) for value in (0, -1, 1, 3, 201, 10**5, 10**9, 10**30, "2", 2.0, None, [2])],
    *[("width", value) for value in (0, -128, 64, 10**12, "128", None, 128.5, {})],
    *[("grid", value) for value in ([-4, -4], [0, 0], [5], [5, 5, 5], 5, "55", [5, "5"], [10**9, 10**9], None, [5, 4])],
    *[("interpolation", value) for value in ("bogus", "", None, 1, "Offset")],
    *[("ffn", value) for value in ("bogus", "swiglu", None, 3)],
    *[("hidden", value) for value in (-1, 1, 10**9, "512", None, 64)],
    *[("registers", value) for value in (-1, 4, 10**9, None, "0")],
    *[("patch", value) for value in (0, -14, 16, 10**9, None, "14")],
    *[("norm_eps", value) for value in (0, -1e-6, 1e300, float("nan"), float("inf"), "1e-6", None)],
    *[("arch", value) for value in ("[/bold]", "a\0b", "x" * 101, 5, None, "../../x", "\ud800", "[link=x]y")],
    *[("about", value) for value in ([], 5, "text", {"licence": 5}, {"licence": "x" * 2000}, {"other": "y"}, None)],
    ("unknown", 1),
]


@pytest.mark.parametrize(("key", "value"), _LIES, ids=lambda v: str(v)[:24].encode("unicode_escape").decode())
def test_a_lie_in_the_header_is_refused(state: State, tmp_path: Path, key: str, value: Any) -> None:
    text = json.dumps(_HEADER | {key: value})
    refused(lambda: load_checkpoint(_header(tmp_path / "m.safetensors", state, text)))


_DEFAULTS = {f.name for f in fields(ViTConfig) if f.default is not MISSING}


@pytest.mark.parametrize("missing", sorted(set(_HEADER) - _DEFAULTS))
def test_a_header_that_lacks_a_field_is_refused(state: State, tmp_path: Path, missing: str) -> None:
    text = json.dumps({key: value for key, value in _HEADER.items() if key != missing})
    refused(lambda: load_checkpoint(_header(tmp_path / "m.safetensors", state, text)))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "5", '"x"', "[" * 100_000, '{"a":' * 100_000, " " * 2_000_000 + "{}", "NaN", "\ud7ff"],
    ids=lambda text: f"{text[:6]!r} of {len(text)}",
)
def test_a_header_that_is_no_object_is_refused(state: State, tmp_path: Path, text: str) -> None:
    refused(lambda: load_checkpoint(_header(tmp_path / "m.safetensors", state, text)))


def _renamed(old: str, new: str) -> Callable[[State], Any]:
    return lambda state: {key.replace(old, new): value for key, value in state.items()}


def _with(key: str, make: Callable[[Tensor], Any]) -> Callable[[State], Any]:
    return lambda state: state | {key: make(state[key])}


def _also(key: str, value: Any) -> Callable[[State], Any]:
    return lambda state: state | {key: value}


def _cyclic(state: State) -> Any:
    state["self"] = state  # type: ignore[assignment]
    return state


def _diamond(state: State) -> Any:
    tree: Any = state
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    return tree


def _deep(state: State) -> Any:
    tree: Any = state
    for _ in range(300):
        tree = {"a": tree}
    return tree


_ANCHOR, _QKV, _NORM = "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "norm.weight"
_KEYS = ("cls_token", "pos_embed", _ANCHOR, "blocks.0.mlp.fc1.weight", _QKV, _NORM, "mask_token")
_STATES: dict[str, Callable[[State], Any]] = {
    "block of 1e9": _also("blocks.999999999.norm1.weight", torch.ones(128)),
    "block of 1e5": _also("blocks.99999.norm1.weight", torch.ones(128)),
    "block x": _also("blocks.x.norm1.weight", torch.ones(128)),
    "block superscript": _also("blocks.²3.norm1.weight", torch.ones(128)),
    "block of 5000 digits": _also(f"blocks.{'9' * 5000}.norm1.weight", torch.ones(128)),
    "block -1": _also("blocks.-1.norm1.weight", torch.ones(128)),
    "block of nothing": _also("blocks.", torch.ones(128)),
    "block 01": _also("blocks.01.norm1.weight", torch.ones(128)),
    "a gap": _renamed("blocks.1.", "blocks.2."),
    "more in a block": _also("blocks.0.attn.q_norm.weight", torch.ones(64)),
    "no blocks": lambda state: {key: value for key, value in state.items() if "blocks" not in key},
    "no backbone": lambda state: {"head.weight": torch.ones(3, 3)},
    "nothing": lambda state: {},
    "no norm": lambda state: {key: value for key, value in state.items() if not key.startswith("norm")},
    "cyclic": _cyclic,
    "diamonds": _diamond,
    "deep": _deep,
    "a list": lambda state: list(state.values()),
    "a tensor": lambda state: state[_ANCHOR],
    "a number": lambda state: 5,
    "none": lambda state: None,
    "strides of 0": _with(_NORM, lambda t: torch.zeros(1, dtype=torch.float16).as_strided((2_600_000_000,), (0,))),
    "strides of 0 elsewhere": _also("head.weight", torch.zeros(1).as_strided((2_600_000_000,), (0,))),
    "expanded embedding": _with("pos_embed", lambda t: torch.zeros(1).expand(1, 10_000_001, 128)),
    "huge patch embedding": _with(_ANCHOR, lambda t: torch.zeros(1).expand(10**6, 3, 14, 14)),
    "sparse": _with(_QKV, lambda t: t.to_sparse()),
    "csr": _with(_QKV, lambda t: t.to_sparse_csr()),
    "quantized": _with(_QKV, lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    "meta": _with(_QKV, lambda t: t.to("meta")),
    "nan": _with(_NORM, lambda t: t * float("nan")),
    "infinite": _with(_NORM, lambda t: t / 0),
    "infinite as float16": _with(_NORM, lambda t: (t * 1e30).half()),
    **{f"{key} 0-d": _with(key, lambda t: torch.tensor(1.0)) for key in _KEYS},
    **{f"{key} empty": _with(key, lambda t: torch.empty(0)) for key in _KEYS},
    **{f"{key} 1-d": _with(key, lambda t: torch.ones(7)) for key in _KEYS},
    **{f"{key} 6-d": _with(key, lambda t: torch.ones(1, 1, 1, 1, 1, 1)) for key in _KEYS},
    **{
        f"weights of {kind}": _with(_QKV, lambda t, kind=kind: t.to(getattr(torch, kind)))
        for kind in ("int8", "uint8", "int32", "int64", "bool", "complex64", "float8_e4m3fn")
    },
}


@pytest.mark.parametrize("case", _STATES)
def test_a_hostile_state_dict_is_refused(state: State, tmp_path: Path, case: str) -> None:
    torch.save(_STATES[case](dict(state)), tmp_path / "m.pth")
    refused(lambda: load_checkpoint(tmp_path / "m.pth"))


@pytest.mark.parametrize("kind", ["int8", "int32", "int64", "bool", "uint8", "float8_e4m3fn"])
def test_safetensors_of_other_types_are_refused(state: State, tmp_path: Path, kind: str) -> None:
    typed = state | {_QKV: state[_QKV].to(getattr(torch, kind))}
    refused(lambda: load_checkpoint(_header(tmp_path / "m.safetensors", typed, json.dumps(_HEADER))))


_CONFIGS: list[tuple[str, Any]] = [
    ("hidden_size", 999),
    ("hidden_size", "128"),
    ("hidden_size", []),
    ("hidden_size", 0),
    ("patch_size", 16),
    ("patch_size", -14),
    ("patch_size", {}),
    ("num_hidden_layers", -3),
    ("num_hidden_layers", 12),
    ("num_hidden_layers", 10**9),
    ("num_hidden_layers", 2.5),
    ("num_attention_heads", 0),
    ("num_attention_heads", -2),
    ("num_attention_heads", {}),
    ("num_attention_heads", 3),
    ("num_attention_heads", "2"),
    ("num_attention_heads", 10**30),
    ("num_attention_heads", True),
    ("num_attention_heads", 1.5),
    ("num_register_tokens", 4),
    ("layer_norm_eps", float("nan")),
    ("layer_norm_eps", "1e-6"),
    ("layer_norm_eps", 1e-5),
    ("hidden_act", ["gelu"]),
    ("hidden_act", "relu"),
    ("qkv_bias", False),
    ("qkv_bias", None),
]


@pytest.mark.parametrize(("key", "value"), _CONFIGS, ids=str)
def test_a_config_that_lies_is_refused(state: State, tmp_path: Path, key: str, value: Any) -> None:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(_HUB | {key: value}))
    refused(lambda: load_checkpoint(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"backbone_config": _HUB | {key: value}}))
    refused(lambda: load_checkpoint(tmp_path))


_TEXTS = {
    "list": b"[]",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "empty": b"",
    "half": b'{"hidden_size": ',
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 200_000,
    "no utf-8": b"\xff\xfe{}",
    "large": b'{"a": "' + b"x" * 2_000_000 + b'"}',
    "5000 digits": b'{"hidden_size": ' + b"9" * 5000 + b"}",
    "nul": b"\0" * 100,
}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("case", _TEXTS)
def test_json_beside_a_checkpoint_that_is_no_object_is_refused(
    state: State, tmp_path: Path, name: str, case: str
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / name).write_bytes(_TEXTS[case])
    refused(lambda: load_checkpoint(tmp_path))


_MAPS: list[Any] = [
    None,
    [],
    {},
    "x",
    {"a": 5},
    {"a": None},
    {"a": "."},
    {"a": ".."},
    {"a": ""},
    {"a": "/etc/passwd"},
    {"a": "../other.safetensors"},
    {"a": "model.safetensors.index.json"},
    {"a": "missing.safetensors"},
    {"a": "a\0b"},
    {"a": "x" * 5000},
    {"a": ["model.safetensors"]},
    {"a": "sub"},
    {"a": "link.safetensors"},
]


@pytest.mark.parametrize("value", _MAPS, ids=lambda value: str(value)[:30])
def test_an_index_that_names_no_files_of_its_folder_is_refused(state: State, tmp_path: Path, value: Any) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    save_file(state, tmp_path / "other.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": value}))
    refused(lambda: load_checkpoint(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "model.safetensors", "README.md"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_a_pipe_a_folder_or_a_loop_of_links_in_a_checkpoint_does_not_hang(
    state: State, tmp_path: Path, name: str, kind: str
) -> None:
    if name != "model.safetensors":
        save_file(state, tmp_path / "model.safetensors")
    path = tmp_path / name
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
    if name == "README.md" or (kind == "loop" and name.endswith("json")):
        load_checkpoint(tmp_path)  # a card is not needed, and a link that leads nowhere is no file
    elif name == "model.safetensors.index.json":
        load_checkpoint(tmp_path)  # what is no file is no index
    else:
        refused(lambda: load_checkpoint(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin", ".ckpt"])
def test_a_checkpoint_that_is_cut_is_refused(state: State, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"m{suffix}"
    if suffix == ".safetensors":
        save_checkpoint(random_model(TINY), path)
    else:
        torch.save(state, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(lambda: load_checkpoint(path))


_PICKLES = {
    "code": b"cos\nsystem\n(S'true'\ntR.",
    "no protocol": b"garbage",
    "a list in itself": b"]\x94h\x00a.",
    "memo of nothing": b"\x80\x02h\x05.",
    "stack of nothing": b"\x80\x02.",
    "zip of nothing": b"PK\x05\x06" + b"\0" * 18,
    "deep": b"\x80\x02" + b"(" * 10_000 + b"t" * 10_000 + b".",
    "dictionary of numbers": pickle.dumps({1: 2, None: 3, (1, 2): 4}, protocol=2),
}


@pytest.mark.parametrize("case", _PICKLES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
def test_bytes_that_are_no_checkpoint_are_refused(tmp_path: Path, suffix: str, case: str) -> None:
    (tmp_path / f"m{suffix}").write_bytes(_PICKLES[case])
    refused(lambda: load_checkpoint(tmp_path / f"m{suffix}"))


def test_a_compressed_record_is_refused_before_it_is_read(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "stored.pth")
    deflated = zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored, deflated as packed:
        for record in stored.infolist():
            packed.writestr(record.filename, stored.read(record))
    assert "compressed" in str(refused(lambda: load_checkpoint(tmp_path / "m.pth")))


@pytest.mark.parametrize("name", ["nowhere", "~nosuchuser/m.pth", "m.txt", "m", "[/bold].pth", "m.pth\0"])
def test_a_model_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    from edgekit.models import zoo

    refused(lambda: zoo.load(name))
    (tmp_path / "m.txt").write_text("x")
    refused(lambda: load_checkpoint(tmp_path / "m.txt"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
def test_a_name_that_is_not_utf_8_is_said_to_be_that(state: State, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / os.fsdecode(b"m\xff" + suffix.encode())
    torch.save(state, tmp_path / "m.pth")
    os.rename(tmp_path / "m.pth", path)
    assert "UTF-8" in refused(lambda: load_checkpoint(path)).what
