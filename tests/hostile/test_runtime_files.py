"""`.edgekit` files that claim what they do not hold: libedgekit refuses each with a sentence, and the process lives."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.backends import get_backend
from edgekit.backends.source import ExportSource
from edgekit.errors import DataError
from edgekit.heads.classification import LinearClassifier
from edgekit.models.vit import random_model
from edgekit.native.model import NativeModel
from tests.support.models import TINY
from tests.support.plans import rtn_plan

SIZE = (28, 42)
Header = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sound file of integers with a head."""
    model = random_model(TINY).bake(*SIZE)
    plan = rtn_plan(model, torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0)))
    weight = np.random.default_rng(0).standard_normal((5, 2 * TINY.width)).astype(np.float32)
    heads = {"logits": LinearClassifier(weight, np.zeros(5, np.float32), (TINY.depth - 1,))}
    source = ExportSource(model, TINY.preprocess(*SIZE), plan, "tiny", "MIT", "0" * 64, "digest", heads=heads)
    path = tmp_path_factory.mktemp("whole") / "model_w8a8.edgekit"
    get_backend("edgekit").export(source, "w8a8", "standard", path)
    return path.read_bytes()


def taken_apart(data: bytes) -> tuple[Header, Header, bytearray]:
    """Header, description and tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["edgekit.model"]), bytearray(data[8 + length :])


def joined(header: Header, description: Header | str, tensors: bytes) -> bytes:
    text = description if isinstance(description, str) else json.dumps(description)
    header = {**header, "__metadata__": {"edgekit.model": text}}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + bytes(tensors)


def refusal(data: bytes, folder: Path) -> str:
    (folder / "model.edgekit").write_bytes(data)
    with pytest.raises(DataError) as caught:
        NativeModel(folder / "model.edgekit")
    return caught.value.why


def test_the_whole_file_is_sound(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.edgekit").write_bytes(joined(*taken_apart(whole)))
    assert NativeModel(tmp_path / "model.edgekit").check() > 0.99


BYTES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda data: b"", "empty"),
    "seven bytes": (lambda data: data[:7], "too few"),
    "half of the header": (lambda data: data[:1000], "header claims"),
    "half of the tensors": (lambda data: data[: len(data) // 2], "inside the file"),
    "a byte less": (lambda data: data[:-1], "inside the file"),
    "a byte more": (lambda data: data + b"\0", "follow its last tensor"),
    "a header of 2^64 - 1 bytes": (lambda data: b"\xff" * 8 + data[8:], "header claims"),
    "a header of no bytes": (lambda data: bytes(8) + data[8:], "not JSON"),
    "a header that is no JSON": (lambda data: data[:8] + b"\0" + data[9:], "not JSON"),
    "tensors in odd places": (
        lambda data: struct.pack("<Q", struct.unpack("<Q", data[:8])[0] + 1) + data[8:],
        "aligned|not JSON",
    ),
    "a header of brackets": (lambda data: struct.pack("<Q", 80000) + b"[" * 80000, "too deeply"),
    "a header of many values": (
        lambda data: struct.pack("<Q", 2000000) + b"[" + b"0," * 999999 + b"0",
        "too many values",
    ),
    "onnx": (lambda data: b"\x08\x09\x12\x07edgekit" * 100, "header claims"),
}


@pytest.mark.parametrize("name", BYTES)
def test_damaged_bytes(name: str, whole: bytes, tmp_path: Path) -> None:
    damage, words = BYTES[name]
    assert any(word in refusal(damage(whole), tmp_path) for word in words.split("|"))


def _set(*keys: str | int, to: object) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = to

    return change


QKV = "blocks.0.attn.qkv.weight"
HEADER: dict[str, tuple[Callable[[Any], object], str]] = {
    "a tensor that is missing": (
        lambda header: header.update(renamed=header.pop("norm.weight")),
        "'norm.weight' is missing",
    ),
    "offsets beyond the file": (_set(QKV, "data_offsets", to=[0, 2**50]), "inside the file"),
    "offsets that run backwards": (_set(QKV, "data_offsets", to=[64, 0]), "inside the file"),
    "negative offsets": (_set(QKV, "data_offsets", to=[-64, 49088]), "inside the file"),
    "offsets that are no numbers": (_set(QKV, "data_offsets", to=["0", "64"]), "inside the file"),
    "one offset": (_set(QKV, "data_offsets", to=[0]), "inside the file"),
    "broken offsets": (_set(QKV, "data_offsets", to=[0.5, 64]), "inside the file"),
    "two tensors in one place": (lambda header: header.update(twin=dict(header[QKV])), "overlap"),
    "another type": (_set(QKV, "dtype", to="F32"), "needs"),
    "an unknown type": (_set(QKV, "dtype", to="F16"), "has type"),
    "another shape": (lambda header: header[QKV]["shape"].reverse(), "shape"),
    "a shape that overflows": (_set(QKV, "shape", to=[2**33, 2**33]), "too many values"),
    "a negative side": (_set(QKV, "shape", to=[-384, -128]), "no size"),
    "five sides": (_set(QKV, "shape", to=[1, 1, 1, 384, 128]), "sides"),
    "no shape": (lambda header: header[QKV].pop("shape"), "lacks"),
    "a tensor that is no object": (_set(QKV, to=7), "lacks"),
}


@pytest.mark.parametrize("name", HEADER)
def test_headers_that_lie(name: str, whole: bytes, tmp_path: Path) -> None:
    header, description, tensors = taken_apart(whole)
    change, words = HEADER[name]
    change(header)
    assert words in refusal(joined(header, description, tensors), tmp_path)


STEPS = ("heads", 0, "steps")
DESCRIPTION: dict[str, tuple[Callable[[Any], object], str]] = {
    "another schema": (_set("schema", to="edgekit.model/2"), "schema"),
    "an unknown tier": (_set("tier", to="turbo"), "tier"),
    "no network": (lambda d: d.pop("network"), "no network"),
    "a network that is a list": (_set("network", to=[]), "no network"),
    "no blocks": (_set("network", "depth", to=0), "network.depth"),
    "a million blocks": (_set("network", "depth", to=10**6), "network.depth"),
    "half a block": (_set("network", "depth", to=1.5), "network.depth"),
    "more blocks than there are": (_set("network", "depth", to=3), "blocks.2"),
    "a width of a text": (_set("network", "width", to="128"), "network.width"),
    "another width": (_set("network", "width", to=64), "shape"),
    "heads that do not divide": (_set("network", "heads", to=3), "divide"),
    "a huge patch": (_set("network", "patch", to=2**31), "network.patch"),
    "a huge grid": (_set("network", "grid", to=[2**20, 2**20]), "network.grid"),
    "a grid of one side": (_set("network", "grid", to=[2]), "network.grid"),
    "another grid": (_set("network", "grid", to=[4, 4]), "input_size"),
    "an epsilon of infinity": (_set("network", "norm_eps", to=1e999), "not JSON"),
    "unknown positions": (_set("network", "positions", to="sinus"), "positions"),
    "a deviation of zero": (_set("manifest", "preprocess", "std", to=[0, 1, 1]), "preprocess.std"),
    "a huge edge": (_set("manifest", "preprocess", "resize", to=2**40), "preprocess.resize"),
    "no manifest": (lambda d: d.pop("manifest"), "no manifest"),
    "heads that are no list": (_set("heads", to={}), "heads"),
    "a head without steps": (_set("heads", 0, "steps", to=[]), "no steps"),
    "a step of an unknown kind": (_set(*STEPS, 0, "op", to="exec"), "exec"),
    "a step that takes itself": (_set(*STEPS, 1, "inputs", to=[1]), "inputs"),
    "a step that takes a later one": (_set(*STEPS, 0, "inputs", to=[3]), "inputs"),
    "a step with too many inputs": (_set(*STEPS, 1, "inputs", to=[0, 0]), "inputs"),
    "a step that does not fit": (_set(*STEPS, 1, "op", to="softmax"), "does not fit"),
    "a rank of nine": (_set("heads", 0, "rank", to=9), "rank"),
    "another rank": (_set("heads", 0, "rank", to=3), "rank"),
    "a block that is not there": (_set(*STEPS, 0, to={"op": "layer", "inputs": [], "block": 7}), "block"),
    "a head without a name": (_set("heads", 0, "name", to=""), "name"),
}


@pytest.mark.parametrize("name", DESCRIPTION)
def test_descriptions_that_lie(name: str, whole: bytes, tmp_path: Path) -> None:
    header, description, tensors = taken_apart(whole)
    change, words = DESCRIPTION[name]
    change(description)
    text = json.dumps(description).replace("Infinity", "1e999")
    assert words in refusal(joined(header, text, tensors), tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "name",
    [
        "blocks.1.mlp.fc2.scale",
        "blocks.0.norm1.bias",
        "pos_embed",
        "norm.weight",
        "golden.pooler_output",
        "heads.logits.4.bias",
    ],
)
def test_numbers_that_are_not_finite(name: str, value: float, whole: bytes, tmp_path: Path) -> None:
    header, description, tensors = taken_apart(whole)
    first, last = header[name]["data_offsets"]
    tensors[last - 4 : last] = struct.pack("<f", value)
    assert first < last
    assert "finite" in refusal(joined(header, description, tensors), tmp_path)


def test_every_byte_of_the_header_may_be_another(whole: bytes, tmp_path: Path) -> None:
    """Seeded: none of them ends the process, and what opens can be run."""
    rng = np.random.default_rng(0)
    (length,) = struct.unpack("<Q", whole[:8])
    path = tmp_path / "model.edgekit"
    for place in rng.integers(0, 8 + length, 400):
        data = bytearray(whole)
        data[place] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            NativeModel(path).context().run(np.zeros((1, 3, *SIZE), np.float32))
        except (DataError, ValueError, KeyError):  # a description of another layout
            continue
