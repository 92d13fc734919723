"""Builds that are run again beside a plan, golden file or record that is damaged, another's, or lies."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from edgekit.files import sealed, sealed_path, sha256_of
from edgekit.manifest import Manifest
from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.vit import random_model
from edgekit.pipeline import build
from edgekit.plan.quant import QuantPlan
from edgekit.recipe import Recipe
from tests.support.models import TINY, photographs

_PLAN, _W8A8 = "plan/int8.safetensors", "onnx/model_w8a8.onnx"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("recipe")
    save_checkpoint(random_model(TINY), folder / "tiny.safetensors")
    photographs(folder / "pictures", 14)
    return Recipe.make(
        {
            "model": str(folder / "tiny.safetensors"),
            "image_size": [(70, 70)],
            "precisions": ["fp32", "w8a8"],
            "fused": False,
            "calibration": {"source": str(folder / "pictures"), "samples": 8},
            "evaluation": str(folder / "pictures"),
            "evaluation_samples": 5,
        }
    )


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished build. Not to be changed: copy it."""
    return build(recipe, tmp_path_factory.mktemp("whole") / "out", measure="none").out


@pytest.fixture(scope="module")
def other(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of another model of the same shapes."""
    folder = tmp_path_factory.mktemp("other")
    save_checkpoint(random_model(TINY, seed=5), folder / "tiny.safetensors")
    values = recipe.model_dump() | {"model": str(folder / "tiny.safetensors"), "precisions": ["w8a8"]}
    return build(Recipe.make(values), folder / "out", measure="none").out


def _header(path: Path) -> dict[str, Any]:
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()["edgekit.plan"])


def _rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], object]) -> None:
    """Whoever can write to a folder can write the digests in it, too."""
    tensors, header = load_file(path), _header(path)
    change(header, tensors)
    with sealed_path(path) as temporary:
        save_file(tensors, temporary, metadata={"edgekit.plan": json.dumps(header)})


def _of(change: Callable[[dict[str, Any], dict[str, np.ndarray]], object]) -> Callable[[Path, Path], None]:
    return lambda out, other: _rewritten(out / _PLAN, change)


def _put(kind: str) -> Callable[[Path, Path], None]:
    def put(out: Path, other: Path) -> None:
        path = out / _PLAN
        path.unlink()
        match kind:
            case "pipe":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case "nothing":
                pass
            case target:
                path.symlink_to(target)

    return put


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    return lambda out, other: (out / _PLAN).write_bytes(change((out / _PLAN).read_bytes())) and None


def _another(key_too: bool) -> Callable[[Path, Path], None]:
    def swap(out: Path, other: Path) -> None:
        key = QuantPlan.load(out / _PLAN).key
        plan = QuantPlan.load(other / _PLAN)
        (replace(plan, provenance={**plan.provenance, "key": key}) if key_too else plan).save(out / _PLAN)

    return swap


def _first(tensors: dict[str, np.ndarray], ending: str) -> str:
    return next(name for name in sorted(tensors) if name.endswith(ending))


def _spoil(ending: str, value: Any) -> Callable[[Path, Path], None]:
    def spoil(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        tensors[_first(tensors, ending)].reshape(-1)[0] = value

    return _of(spoil)


def _shape(ending: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], None]:
    def shape(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        name = _first(tensors, ending)
        tensors[name] = np.ascontiguousarray(change(tensors[name]))

    return _of(shape)


def _lie(**values: Any) -> Callable[[Path, Path], None]:
    return _of(lambda header, tensors: header.update(values))


_PLANS: dict[str, Callable[[Path, Path], None]] = {
    "a bit": _bytes(lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
    "cut": _bytes(lambda data: data[: len(data) // 2]),
    "empty": _bytes(lambda data: b""),
    "NaN under a good digest": _spoil("/weight_scale", np.nan),
    "infinite under a good digest": _spoil("/bias", np.inf),
    "other integers under a good digest": _spoil("/weight", 3),
    "another scale under a good digest": _spoil("/weight_scale", 0.5),
    "another model's": _another(key_too=False),
    "another model's under this key": _another(key_too=True),
    "pipe": _put("pipe"),
    "folder": _put("folder"),
    "nothing": _put("nothing"),
    "a dangling link": _put("nowhere"),
    "/dev/zero": _put("/dev/zero"),
    "no digest": lambda out, other: (out / f"{_PLAN}.sha256").unlink(),
    "weights of another shape": _shape("/weight", lambda w: w[:-1]),
    "weights of another type": _shape("/weight", lambda w: w.astype(np.int16)),
    "weights of float": _shape("/weight", lambda w: w.astype(np.float32)),
    "scales of another shape": _shape("/weight_scale", lambda s: s[:-1]),
    "biases of another shape": _shape("/bias", lambda b: b[:-1]),
    "a GEMM less": _of(lambda header, tensors: header["gemms"].popitem()),
    "another image size": _lie(image_size=[56, 56]),
    "no image size": _lie(image_size="ab"),
    "notes that are none": _lie(kept_float=[]),
    "provenance that is none": _lie(provenance=[]),
    "GEMMs that are none": _lie(gemms=[]),
    "another schema": _lie(schema="edgekit.plan/9"),
    "a config of another model": _of(lambda header, tensors: header["config"].update(heads=4)),
    "a config of nothing": _lie(config={}),
    "a header that is deep": _of(lambda header, tensors: header.update(matmuls={"x": {}})),
}


@pytest.mark.parametrize("case", _PLANS)
@pytest.mark.parametrize("kept", [False, True], ids=["made", "kept"])
def test_a_plan_that_is_not_the_builds_own_is_never_built_from(
    recipe: Recipe, whole: Path, other: Path, tmp_path: Path, case: str, kept: bool
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    _PLANS[case](out, other)
    if not kept:
        (out / _W8A8).unlink()
    result = build(recipe, out, measure="none")
    assert result.exit_code == 0
    assert result.made == (() if kept else ("onnx/w8a8",))
    for path in (_W8A8, _PLAN):
        assert sha256_of(out / path) == sha256_of(whole / path), path
    assert not sealed(out / _PLAN)


def _record(name: str, **changes: Any) -> Callable[[Path], None]:
    """A record under a good digest that says something else."""

    def change(out: Path) -> None:
        path = out / "records" / name
        values = json.loads(path.read_text())
        row = changes.pop("row", {})
        values |= changes
        values["row"] |= row
        with sealed_path(path) as temporary:
            temporary.write_text(json.dumps(values))

    return change


def _copied(source: str, target: str) -> Callable[[Path], None]:
    def copy(out: Path) -> None:
        for suffix in ("", ".sha256"):
            shutil.copyfile(out / "records" / f"{source}{suffix}", out / "records" / f"{target}{suffix}")

    return copy


_RECORDS: dict[str, Callable[[Path], object]] = {
    "another artifact's": _copied("onnx_fp32.json", "onnx_w8a8.json"),
    "another's digest": _record("onnx_w8a8.json", row={"sha256": "0" * 64}),
    "no digest": _record("onnx_w8a8.json", row={"sha256": None}),
    "another's path": _record("onnx_w8a8.json", row={"path": "onnx/model.onnx"}),
    "a path outside": _record("onnx_w8a8.json", row={"path": "../secret"}),
    "a path of the manifest": _record("onnx_w8a8.json", row={"path": "manifest.json"}),
    "a failure": _record("onnx_w8a8.json", row={"status": "failed", "reason": "no reason"}),
    "another key": _record("onnx_w8a8.json", key="0" * 16),
    "another name": _record("onnx_w8a8.json", row={"name": "onnx/fp32"}),
    "cut": lambda out: (out / "records/onnx_w8a8.json").write_text("{"),
    "no seal": lambda out: (out / "records/onnx_w8a8.json.sha256").unlink(),
    "a stranger": _copied("onnx_w8a8.json", "tflite_w8a8.json"),
    "a stamp without end": lambda out: [
        (out / "records/stamp").unlink(),
        (out / "records/stamp").symlink_to("/dev/zero"),
    ],
    "a stamp that is a pipe": lambda out: [(out / "records/stamp").unlink(), os.mkfifo(out / "records/stamp")],
}


@pytest.mark.parametrize("case", _RECORDS)
def test_a_record_that_lies_is_not_believed(recipe: Recipe, whole: Path, tmp_path: Path, case: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    _RECORDS[case](out)
    result = build(recipe, out, measure="none")
    assert result.exit_code == 0
    rows = {row.name: row for row in Manifest.read(out).artifacts}
    assert list(rows) == [row.name for row in Manifest.read(whole).artifacts]
    for row in rows.values():
        assert row.status == "ok"
        assert sha256_of(out / str(row.path)) == row.sha256
    assert sha256_of(out / _W8A8) == sha256_of(whole / _W8A8)


@pytest.mark.parametrize(
    "path", [_W8A8, _PLAN, "golden/outputs.safetensors", "records/onnx_w8a8.json", "manifest.json"]
)
def test_bytes_that_were_altered_under_their_old_time_are_noticed(
    recipe: Recipe, whole: Path, tmp_path: Path, path: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    build(recipe, out, measure="none")
    assert build(recipe, out, measure="none").did_nothing
    state, data = (out / path).stat(), bytearray((out / path).read_bytes())
    if path == "manifest.json":  # the contract itself: another digest of an artifact
        data = bytearray(data.replace(sha256_of(out / _W8A8).encode(), b"0" * 64))
    else:
        data[len(data) // 2] ^= 1
    (out / path).write_bytes(bytes(data))
    os.utime(out / path, ns=(state.st_atime_ns, state.st_mtime_ns))
    build(recipe, out, measure="none")
    for name in (_W8A8, _PLAN, "golden/outputs.safetensors"):
        assert sha256_of(out / name) == sha256_of(whole / name), name
    assert Manifest.read(out).artifacts[1].sha256 == sha256_of(whole / _W8A8)
