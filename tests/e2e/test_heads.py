"""A build with heads: outputs of every artifact, drift in each task's unit, kept until a head's file changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

import edgekit
from edgekit.cli import main
from edgekit.errors import DataError
from edgekit.pipeline import BuildResult, build
from edgekit.plan.heads import HeadPlan
from edgekit.recipe import Recipe
from tests.e2e.conftest import SIZE
from tests.support import official_heads as official
from tests.support.models import TINY

CLASSES = 5
GRID = SIZE // 14


@pytest.fixture(scope="module")
def heads(tmp_path_factory) -> dict[str, str]:
    """Three random heads of the official kinds, as files."""
    folder = tmp_path_factory.mktemp("heads")
    modules = {
        "cls": official.Classifier(TINY.width, 1, CLASSES),
        "seg": official.Segmenter(TINY.width, 1, CLASSES),
        "depth": official.LinearDepther(TINY.width, [TINY.depth - 1], 16, 10),
    }
    for name, module in modules.items():
        save_file(official.randomised(module).state_dict(), folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in modules}


@pytest.fixture(scope="module")
def with_heads(recipe: Recipe, heads) -> Recipe:
    return Recipe.make(recipe.model_dump() | {"heads": heads, "formats": ["onnx", "openvino"]})


@pytest.fixture(scope="module")
def built(with_heads, tmp_path_factory) -> BuildResult:
    return build(with_heads, tmp_path_factory.mktemp("heads_built") / "out", measure="drift")


def test_every_artifact_has_the_heads_and_their_drift(built: BuildResult):
    assert {row.name: row.status for row in built.manifest.artifacts} == dict.fromkeys(
        ("onnx/fp32", "onnx/w8a8", "openvino/fp32", "openvino/w8a8"), "ok"
    )
    for row in built.manifest.artifacts:
        assert [spec.name for spec in row.outputs[2:]] == ["cls", "seg", "depth"]
        assert [spec.shape[1:] for spec in row.outputs[2:]] == [(CLASSES,), (CLASSES, GRID, GRID), (4 * GRID, 4 * GRID)]
        assert row.drift is not None
        drift = row.drift["heads"]
        assert [(name, found["measure"], found["unit"]) for name, found in drift.items()] == [
            ("cls", "top-1 agreement", ""),
            ("seg", "mIoU", ""),
            ("depth", "RMSE", "m"),
        ]
        if row.precision == "fp32":
            assert drift["cls"]["value"] == 1
            assert drift["seg"]["value"] > 0.99
            assert drift["depth"]["value"] < 1e-4
        else:
            assert 1e-4 < drift["depth"]["value"] < 1
            assert 0.3 < drift["seg"]["value"] <= 1


def test_a_built_folder_is_loaded_with_its_heads(built: BuildResult, pictures: Path):
    outputs = edgekit.load(built.out)([*sorted(pictures.glob("*.png"))[:2]])
    assert outputs["cls"].shape == (2, CLASSES)
    assert outputs["depth"].dtype == np.float32


def test_a_changed_head_makes_the_artifacts_anew(built: BuildResult, with_heads: Recipe, heads, tmp_path: Path):
    shutil.copytree(built.out, tmp_path / "out")
    again = build(with_heads, tmp_path / "out", measure="drift")
    assert again.made == ()
    save_file(
        official.randomised(official.Classifier(TINY.width, 1, CLASSES), 1).state_dict(), tmp_path / "other.safetensors"
    )
    shutil.copy(tmp_path / "other.safetensors", tmp_path / "cls.safetensors")
    changed = Recipe.make(with_heads.model_dump() | {"heads": heads | {"cls": str(tmp_path / "cls.safetensors")}})
    assert len(build(changed, tmp_path / "out", measure="drift").made) == 4


def test_heads_have_a_plan_of_their_integers_which_is_kept(built: BuildResult, with_heads: Recipe, tmp_path: Path):
    out = tmp_path / "out"
    shutil.copytree(built.out, out)
    saved = out / "plan" / "heads.safetensors"
    plan = HeadPlan.load(saved)
    assert {name.split(".")[1] for name in [*plan.layers, *plan.kept_float]} == {"depth"}  # others have few outputs
    rows = {row.name: row for row in built.manifest.artifacts}
    for row in rows.values():
        assert [note for note in plan.notes() if note in row.notes] == (plan.notes() if row.precision == "w8a8" else [])
    before = saved.read_bytes(), saved.stat().st_mtime_ns
    floating = Recipe.make(with_heads.model_dump() | {"head_precision": "float"})
    again = build(floating, out, measure="drift")
    assert {*again.made} == {"onnx/w8a8", "openvino/w8a8"}
    assert plan.notes()
    assert not any(note in row.notes for row in again.manifest.artifacts for note in plan.notes())
    assert {*build(with_heads, out, measure="drift").made} == {"onnx/w8a8", "openvino/w8a8"}
    assert (saved.read_bytes(), saved.stat().st_mtime_ns) == before
    saved.write_bytes(saved.read_bytes()[:200])  # damaged: made anew, to the same bytes
    (out / "onnx" / "model_w8a8.onnx").unlink()
    assert build(with_heads, out, measure="drift").made == ("onnx/w8a8",)
    assert saved.read_bytes() == before[0]


def test_a_head_that_is_not_there_ends_the_build(recipe: Recipe, tmp_path: Path):
    with pytest.raises(DataError, match="there is no head"):
        build(Recipe.make(recipe.model_dump() | {"heads": {"cls": "nowhere.pth"}}), tmp_path / "out")


def test_the_command_line_takes_heads_and_refuses_what_is_none(checkpoint, pictures, heads, tmp_path: Path, capsys):
    words = ["--model", str(checkpoint), "--image-size", str(SIZE), "--calib", str(pictures), "--precision", "fp32"]
    given = ",".join(f"{name}={path}" for name, path in heads.items())
    assert main(["export", *words, "--heads", given, "--out", str(tmp_path / "out")]) == 0
    outputs = edgekit.load(tmp_path / "out")(np.zeros((1, 3, SIZE, SIZE), np.float32))
    assert [*outputs][2:] == ["cls", "seg", "depth"]
    assert main(["export", *words, "--heads", "cls", "--out", str(tmp_path / "none")]) == 2
    assert "is not NAME=FILE" in capsys.readouterr().err


def test_a_recipe_has_the_digest_that_it_had_before_the_fields_it_does_not_use():
    values = Recipe().model_dump(mode="json")
    for newer in ("heads", "head_precision", "fused_attention", "coreml"):
        del values[newer]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert Recipe().digest == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert Recipe().digest != Recipe.make({"heads": {"cls": "a.pth"}}).digest
