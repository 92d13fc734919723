"""A build with heads: outputs of every artifact, drift in each task's unit, kept until a head's file changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import edgekit
from edgekit.cli import main
from edgekit.errors import DataError
from edgekit.files import files_of
from edgekit.manifest import Manifest
from edgekit.pipeline import BuildResult, build
from edgekit.plan.heads import HeadPlan
from edgekit.recipe import Recipe
from tests.e2e.conftest import SIZE
from tests.support import official_heads as official
from tests.support.models import TINY

CLASSES = 5
NAMES = tuple("abcdefghij")
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


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """A Hugging Face folder with named classes, beside a module of another head."""
    from transformers import Dinov2Config, Dinov2ForImageClassification

    folder = tmp_path_factory.mktemp("classifier")
    config = Dinov2Config(
        hidden_size=TINY.width,
        num_attention_heads=2,
        num_hidden_layers=2,
        image_size=SIZE,
        id2label=dict(enumerate(NAMES)),
    )
    Dinov2ForImageClassification(config).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"aligner.weight": torch.ones(3, 4)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("format_", ["onnx", "openvino", "tflite", "coreml"])
def test_a_checkpoint_with_a_head_is_built_with_it_and_its_names(
    format_, classifier: Path, pictures: Path, tmp_path: Path, capsys
):
    words = ["--model", str(classifier), "--image-size", str(SIZE), "--calib", str(pictures), "--samples", "4"]
    words += ["--precision", "fp32", "--format", format_]
    assert main(["export", *words, "--out", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "head logits: classifier of Hugging Face" in printed
    assert "left out: aligner.* (1 tensor, 12 parameters)" in printed
    row = Manifest.read(tmp_path / "out").artifacts[0]
    loaded = edgekit.load(tmp_path / "out")
    assert loaded.classes == {"logits": NAMES}
    assert row.outputs[-1].classes == NAMES
    assert Manifest.read(tmp_path / "out").model["classes"] == {"logits": [*NAMES]}
    file = tmp_path / "out" / str(row.path)
    for part in files_of(file) if file.is_file() else [file]:  # the file alone
        (shutil.copytree if part.is_dir() else shutil.copyfile)(part, tmp_path / part.name)
    alone = edgekit.load(tmp_path / file.name)
    assert alone.classes == {"logits": NAMES}
    assert alone.artifact.outputs == row.outputs
    assert main(["export", *words, "--heads", "none", "--out", str(tmp_path / "bare")]) == 0
    assert "--heads logits=model builds it in" in " ".join(capsys.readouterr().out.split())
    bare = edgekit.load(tmp_path / "bare")
    assert bare.classes == {}
    assert [spec.name for spec in bare.artifact.outputs] == ["last_hidden_state", "pooler_output"]


def test_own_heads_have_integers_drift_and_a_key_of_their_own(classifier: Path, recipe: Recipe, tmp_path: Path):
    given = recipe.model_dump() | {"model": str(classifier), "precisions": ["w8a8"]}
    built = build(Recipe.make(given), tmp_path / "out", measure="drift")
    row = built.manifest.artifacts[0]
    assert row.drift is not None
    assert row.drift["heads"]["logits"]["measure"] == "top-1 agreement"
    assert (tmp_path / "out" / "plan" / "heads.safetensors").exists()
    assert built.report is not None
    bare = build(Recipe.make(given | {"own_heads": False}), tmp_path / "out", measure="drift")
    assert bare.made == ("onnx/w8a8",)
    assert "heads" not in (bare.manifest.artifacts[0].drift or {})
    assert "--heads none" in bare.report.read_text(encoding="utf-8")
    assert build(Recipe.make(given), tmp_path / "out", measure="drift").made == ("onnx/w8a8",)


def test_inspect_says_which_family_and_which_head_a_file_is(classifier: Path, capsys):
    assert main(["inspect", str(classifier)]) == 0
    printed = capsys.readouterr().out
    assert "classifier of Hugging Face, 10 classes: a, b, c, d, e, ..." in printed
    assert "aligner.* (1 tensor, 12 parameters)" in printed
    assert main(["inspect", str(classifier), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["keys"], facts["tasks"]) == ("DINOv2", "huggingface", "logits")


def test_names_that_fit_head_writes_reach_the_file(recipe: Recipe, tmp_path: Path):
    state = official.randomised(official.Classifier(TINY.width, 1, 3)).state_dict()
    save_file(state, tmp_path / "cls.safetensors", metadata={"classes": json.dumps(["hen", "ox", "yak"])})
    given = recipe.model_dump() | {"heads": {"cls": str(tmp_path / "cls.safetensors")}, "precisions": ["fp32"]}
    build(Recipe.make(given), tmp_path / "out", measure="none")
    assert edgekit.load(tmp_path / "out").classes == {"cls": ("hen", "ox", "yak")}
    save_file(state, tmp_path / "cls.safetensors", metadata={"classes": json.dumps(["hen", "ox"])})
    with pytest.raises(DataError, match="2 names of classes for a head of 3"):
        build(Recipe.make(given), tmp_path / "out", measure="none")


def test_a_recipe_has_the_digest_that_it_had_before_the_fields_it_does_not_use():
    values = Recipe().model_dump(mode="json")
    for newer in (
        "dynamic_ranges",
        "runtime_defaults",
        "any_size",
        "heads",
        "own_heads",
        "head_precision",
        "fused_attention",
        "coreml",
        "interpolation",
        "rope_periods",
    ):
        del values[newer]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert Recipe().digest == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert Recipe().digest != Recipe.make({"heads": {"cls": "a.pth"}}).digest
