"""Build folders whose manifest, report or records lie, and models whose own metadata do."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.artifact import Preprocess
from edgekit.errors import EdgekitError
from edgekit.manifest import Manifest
from tests.support.hostile import refused

_SPEC = {"name": "pixel_values", "dtype": "float32", "shape": ["batch", 3, 56, 56], "layout": "NCHW"}
_ROW: dict[str, Any] = {
    "name": "onnx/fp32",
    "format": "onnx",
    "precision": "fp32",
    "path": "onnx/model.onnx",
    "status": "ok",
    "sha256": "0" * 64,
    "size_mb": 1.0,
    "inputs": [_SPEC],
    "outputs": [],
    "preprocess": {"input_size": [56, 56], "resize": 64},
    "drift": {"cls_cosine_mean": 1.0, "grade": "excellent"},
    "latency": {"p50_ms": 1.0, "run": "r"},
}
_MANIFEST: dict[str, Any] = {
    "schema": "edgekit.build/2",
    "model": {"name": "m", "source": "s", "licence": "MIT", "origin": "o", "sha256": "0" * 64, "config": {}},
    "recipe": {},
    "recipe_digest": "0" * 16,
    "host": {},
    "artifacts": [_ROW],
}
_NAN, _INF = float("nan"), float("inf")


def _changed(where: str, value: Any) -> dict[str, Any]:
    """The manifest with one value replaced; `where` are its keys, those of the row behind "row."."""
    whole = copy.deepcopy(_MANIFEST)
    place: Any = whole["artifacts"][0] if where.startswith("row.") else whole
    *parts, last = where.removeprefix("row.").split(".")
    for part in parts:
        place = place[part]
    place[last] = value
    return whole


_LIES: list[tuple[str, Any]] = [
    *[("schema", value) for value in (None, 5, "edgekit.build/1", "", [])],
    *[("artifacts", value) for value in (None, 5, {}, "x", [None], [5], [[]], [{}])],
    *[("model", value) for value in (None, [], "x", 5)],
    *[
        (f"model.{key}", value)
        for key in ("name", "licence", "origin", "sha256")
        for value in (5, None, [], {}, "x" * 10**5)
    ],
    *[("recipe", value) for value in (None, [], 5)],
    *[("host", value) for value in (None, [], 5)],
    *[("runs", value) for value in (None, [{}], 5)],
    *[("choice", value) for value in ([], 5, {}, {"artifact": 5})],
    *[
        ("row.path", value)
        for value in (
            "",
            ".",
            "..",
            "/etc/passwd",
            "../secret",
            "onnx/../../secret",
            "a\0b",
            "C:/x",
            "a\\b",
            5,
            [],
            "link",
        )
    ],
    *[
        ("row.preprocess.input_size", value)
        for value in ([0, 0], [-56, -56], [70, 70], [56], [56, 56, 56], [10**9, 10**9], ["a", "b"], None, [5.5, 56], 56)
    ],
    *[("row.preprocess.resize", value) for value in (0, -5, 10**9, "x", None, 1.5, _NAN)],
    *[
        ("row.preprocess.std", value)
        for value in ([0, 1, 1], [1, 0.0, 1], [_NAN, 1, 1], [_INF, 1, 1], [-1, 1, 1], [1e-300, 1, 1], [1, 1], "x", None)
    ],
    *[
        ("row.preprocess.mean", value)
        for value in ([1e300, 0, 0], [_NAN, 0, 0], [_INF, 0, 0], [-1e30, 0, 0], [0, 0], "x", [[], [], []])
    ],
    *[("row.preprocess.interpolation", value) for value in ("nearest", None, 5)],
    *[("row.preprocess.normalize", value) for value in ("both", None, 5)],
    *[("row.latency", value) for value in ({"p50_ms": "fast"}, {"p50_ms": []}, {}, {"p50_ms": None}, 5, [])],
    *[("row.drift", value) for value in ({"cls_cosine_mean": "near"}, {"cls_cosine_mean": {}}, 5, [])],
    *[("row.inputs", value) for value in ([], None, 5, [{}], [{**_SPEC, "shape": 5}], [{**_SPEC, "shape": [[]]}])],
    *[("row.status", value) for value in ("fine", None, 5)],
    *[("row.format", value) for value in ("tensorrt", None, 5)],
    *[("row.precision", value) for value in ("w2", None, 5)],
    *[("row.sha256", value) for value in (5, [], {})],
    *[("row.size_mb", value) for value in ("x", [], {})],
    ("row.unknown", 1),
    ("unknown", 1),
]


def _folder(path: Path) -> Path:
    (path / "out" / "onnx").mkdir(parents=True)
    (path / "out" / "onnx" / "model.onnx").write_bytes(b"not a model")
    (path / "secret").write_text("secret")
    (path / "out" / "link").symlink_to(path / "secret")
    return path / "out"


def test_the_untouched_manifest_is_read(tmp_path: Path) -> None:
    out = _folder(tmp_path)
    (out / "manifest.json").write_text(json.dumps(_MANIFEST))
    assert Manifest.read(out).artifacts[0].name == "onnx/fp32"


@pytest.mark.parametrize(("where", "value"), _LIES, ids=lambda value: str(value)[:24].replace("\0", "NUL"))
def test_a_manifest_that_lies_is_refused(tmp_path: Path, where: str, value: Any) -> None:
    out = _folder(tmp_path)
    (out / "manifest.json").write_text(json.dumps(_changed(where, value)))
    refused(lambda: Manifest.read(out))
    refused(lambda: edgekit.load(out))


_TEXTS = {
    "empty": b"",
    "half": b'{"schema": ',
    "list": b"[]",
    "null": b"null",
    "number": b"5",
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 200_000,
    "no utf-8": b"\xff",
    "nul": b"\0" * 10,
    "large": b" " * 65_000_000,
    "5000 digits": b'{"schema": ' + b"9" * 5000 + b"}",
    "surrogates": b'{"schema": "\\ud800"}',
}


@pytest.mark.parametrize("case", _TEXTS)
def test_bytes_that_are_no_manifest_are_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "manifest.json").write_bytes(_TEXTS[case])
    refused(lambda: edgekit.load(tmp_path))


@pytest.mark.parametrize("case", _TEXTS)
def test_bytes_that_are_no_report_are_refused(tmp_path: Path, case: str) -> None:
    from edgekit.report.content import BuildReport

    (tmp_path / "report.json").write_bytes(_TEXTS[case])
    refused(lambda: BuildReport.read_json(tmp_path / "report.json"))


@pytest.mark.parametrize("case", _TEXTS)
def test_a_damaged_record_is_made_anew(tmp_path: Path, case: str) -> None:
    from edgekit.pipeline.records import read_record

    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "onnx_fp32.json").write_bytes(_TEXTS[case])
    assert read_record(tmp_path, "onnx/fp32") is None


@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "/dev/zero", "/proc/self/mem", "/dev/stdin"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    from edgekit.report.content import BuildReport

    path = tmp_path / name
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case device:
            path.symlink_to(device)
    refused(lambda: Manifest.read(tmp_path) if name == "manifest.json" else BuildReport.read_json(path))


@pytest.mark.parametrize(
    "values",
    [
        {"std": (0.0, 1.0, 1.0)},
        {"std": (_NAN, 1.0, 1.0)},
        {"mean": (1e300, 0.0, 0.0)},
        {"mean": (_INF, 0.0, 0.0)},
        {"input_size": (0, 56)},
        {"resize": -5},
    ],
    ids=str,
)
def test_a_preprocess_that_makes_no_numbers_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Preprocess(**{"input_size": (56, 56), "resize": 64, **values})


_ARGUMENTS: list[Any] = [
    None,
    5,
    [],
    b"",
    "",
    b"x",
    "a\0b",
    {},
    5.5,
    object(),
    "x" * 5000,
    "no such file",
    "~nosuchuser/x",
]


@pytest.mark.parametrize(
    "given", _ARGUMENTS, ids=lambda value: type(value).__name__ + str(value)[:8].replace("\0", "NUL")
)
def test_load_takes_paths_only(given: Any) -> None:
    refused(lambda: edgekit.load(given))


@pytest.mark.parametrize("threads", [0, -5, 10**9, 1025, True, "2", 1.5, [], _NAN])
def test_load_takes_a_number_of_threads_that_can_be(tmp_path: Path, threads: Any) -> None:
    refused(lambda: edgekit.load(tmp_path / "m.onnx", threads=threads))


_MODELS = {
    "empty": b"",
    "text": b"hello",
    "nul": b"\0" * 4096,
    "noise": np.random.default_rng(0).bytes(4096),
    "zip": b"PK\x05\x06" + b"\0" * 18,
    "half a protobuf": b"\x08\x0a\x12\x07edgekit",
    "xml": b"<net><layers>",
    "xml bomb": b'<!DOCTYPE x [<!ENTITY a "aaaa">]><net name="&a;"/>',
    "a flatbuffer": b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64,
}


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".tflite"])
@pytest.mark.parametrize("case", _MODELS)
def test_bytes_that_are_no_model_are_refused(tmp_path: Path, suffix: str, case: str) -> None:
    (tmp_path / f"m{suffix}").write_bytes(_MODELS[case])
    (tmp_path / "m.bin").write_bytes(_MODELS[case])
    refused(lambda: edgekit.load(tmp_path / f"m{suffix}"))


@pytest.mark.parametrize("case", _MODELS)
def test_a_folder_of_bytes_is_no_core_ml_package(tmp_path: Path, case: str) -> None:
    package = tmp_path / "m.mlpackage" / "Data" / "com.apple.CoreML"
    package.mkdir(parents=True)
    (package / "model.mlmodel").write_bytes(_MODELS[case])
    (tmp_path / "m.mlpackage" / "Manifest.json").write_bytes(_MODELS[case])
    refused(lambda: edgekit.load(tmp_path / "m.mlpackage"))


_METADATA = {
    "list": "[]",
    "null": "null",
    "deep": "[" * 100_000,
    "empty": "",
    "std of 0": json.dumps({"preprocess": {"input_size": [56, 56], "resize": 64, "std": [0, 1, 1]}}),
    "unknown keys": '{"a": 1}',
    "5000 digits": '{"name": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("case", _METADATA)
def test_a_manifest_inside_a_model_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    onnx.helper.set_model_props(model, {"edgekit.manifest": _METADATA[case]})
    onnx.save(model, tmp_path / "m.onnx")
    refused(lambda: edgekit.load(tmp_path / "m.onnx"))


def test_every_refusal_is_an_error_of_edgekit() -> None:
    assert issubclass(type(refused(lambda: edgekit.load("no such file"))), EdgekitError)
