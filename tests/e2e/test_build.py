"""A build from end to end on a tiny checkpoint: the folder's contract, resuming, failing rows, gates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.artifact import FORMATS, FormatRow
from edgekit.backends import load
from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.errors import BackendMissing, DataError, ExportError
from edgekit.files import sha256_of
from edgekit.manifest import Manifest
from edgekit.measure.golden import read_golden
from edgekit.models import zoo
from edgekit.pipeline import build
from edgekit.pipeline.folder import folder_lock
from edgekit.precision import FACTS
from edgekit.recipe import Recipe


def changed(recipe: Recipe, **values: object) -> Recipe:
    return Recipe.make(recipe.model_dump() | values)


def test_the_folder_is_what_the_contract_says(built, recipe):
    data = json.loads((built.out / "manifest.json").read_text())
    assert data["schema"] == "edgekit.build/2"
    assert data["recipe_digest"] == recipe.digest
    assert [(row["name"], row["status"]) for row in data["artifacts"]] == [("onnx/fp32", "ok"), ("onnx/w8a8", "ok")]
    for row in data["artifacts"]:
        assert sha256_of(built.out / row["path"]) == row["sha256"]
        assert row["inputs"][0]["shape"] == ["batch", 3, 70, 70]
        assert row["latency"]["p50_ms"] > 0
    assert data["artifacts"][1]["path"] == "onnx/model_w8a8.onnx"
    assert (built.out / "report.json").exists()
    assert (built.out / "plan" / "int8.safetensors").exists()
    assert built.exit_code == 0
    assert built.made == ("onnx/fp32", "onnx/w8a8")


def test_fp32_equals_torch_and_int8_is_close(built):
    fp32, w8a8 = built.manifest.artifacts
    assert fp32.drift["sqnr_db"] > 90
    assert 15 < w8a8.drift["sqnr_db"] < 60
    assert fp32.size_mb > 2 * w8a8.size_mb


def test_golden_files_hold_the_torch_outputs(built, recipe):
    pixels, expected = read_golden(built.out)
    with torch.no_grad():
        hidden = zoo.load(recipe.model).model.bake(70, 70)(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(expected["last_hidden_state"], hidden, atol=1e-5)


def test_the_built_folder_loads_and_takes_pictures(built, pictures):
    features = load(built.out)(pictures / "00.png")["pooler_output"]
    assert features.shape == (1, 128)


def test_a_second_run_does_nothing_and_reads_no_model(out, recipe, monkeypatch):
    build(recipe, out)  # the copy's times of change are new to the stamp

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(zoo, "load", refuse)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")}
    result = build(recipe, out)
    assert result.made == ()
    assert result.kept == ("onnx/fp32", "onnx/w8a8")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.onnx")} == times


def test_only_what_depends_on_a_change_is_made_again(out, recipe):
    other = changed(recipe, calibration={"source": recipe.calibration.source, "samples": 9})
    result = build(other, out, measure="none")
    assert result.kept == ("onnx/fp32",)
    assert result.made == ("onnx/w8a8",)


def test_a_damaged_artifact_is_made_again_with_the_same_bytes(out, recipe):
    file = out / "onnx" / "model_w8a8.onnx"
    digest = sha256_of(file)
    file.write_bytes(file.read_bytes()[:-100])
    assert build(recipe, out, measure="drift").made == ("onnx/w8a8",)
    assert sha256_of(file) == digest


def test_two_builds_give_the_same_bytes(built, recipe, tmp_path):
    again = build(recipe, tmp_path / "again", measure="none")
    assert [row.sha256 for row in again.manifest.artifacts] == [row.sha256 for row in built.manifest.artifacts]


def test_artifacts_of_an_earlier_recipe_stay_listed(out, recipe):
    result = build(changed(recipe, precisions=["fp16"]), out, measure="none")
    assert [row.name for row in result.manifest.artifacts] == ["onnx/fp16", "onnx/fp32", "onnx/w8a8"]


def test_a_folder_belongs_to_one_model(out, recipe, tmp_path):
    from edgekit.models.checkpoint import save_checkpoint
    from edgekit.models.vit import random_model
    from tests.support.models import TINY

    save_checkpoint(random_model(TINY, seed=1), tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="holds a build of"):
        build(changed(recipe, model=str(tmp_path / "other.safetensors")), out)


def test_a_failing_artifact_is_a_row_with_a_log_and_the_others_go_on(recipe, tmp_path, monkeypatch):
    export = OnnxBackend.export

    def sometimes(self, source, precision, variant, path):
        if precision == "fp16":
            raise ZeroDivisionError("a bug in a converter")
        if precision == "w8a8":
            raise ExportError("cannot be expressed")
        return export(self, source, precision, variant, path)

    monkeypatch.setattr(OnnxBackend, "export", sometimes)
    result = build(changed(recipe, precisions=["fp32", "fp16", "w8a8", "w4a8"]), tmp_path / "out", measure="none")
    rows = {row.name: row for row in result.manifest.artifacts}
    assert [row.status for row in rows.values()] == ["ok", "failed", "failed", "ok"]
    assert "ZeroDivisionError: a bug in a converter" in rows["onnx/fp16"].reason
    assert "Traceback" in (tmp_path / "out" / "logs" / "onnx_fp16.log").read_text()
    assert result.exit_code == 0
    monkeypatch.setattr(OnnxBackend, "export", export)  # the next run mends what failed
    again = build(changed(recipe, precisions=["fp32", "fp16", "w8a8", "w4a8"]), tmp_path / "out", measure="none")
    assert again.made == ("onnx/fp16", "onnx/w8a8")
    assert again.kept == ("onnx/fp32", "onnx/w4a8")


def test_a_failing_fp32_is_an_error_even_if_others_worked(recipe, tmp_path, monkeypatch):
    export = OnnxBackend.export

    def never_fp32(self, source, precision, variant, path):
        if precision == "fp32":
            raise ExportError("no")
        return export(self, source, precision, variant, path)

    monkeypatch.setattr(OnnxBackend, "export", never_fp32)
    result = build(changed(recipe, precisions=["fp32", "fp16"]), tmp_path / "out", measure="none")
    assert [row.status for row in result.manifest.artifacts] == ["failed", "ok"]
    assert result.exit_code == 1


def test_a_format_that_cannot_run_here_is_a_row_with_its_reason(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(OnnxBackend, "missing", lambda self: "onnx is not installed: pip install it")
    result = build(changed(recipe, precisions=["fp32"]), tmp_path / "out", measure="none")
    (row,) = result.manifest.artifacts
    assert (row.status, row.path) == ("not here", None)
    assert "pip install it" in row.reason
    assert result.exit_code == 1  # nothing was built


def test_what_is_built_but_cannot_be_run_here_says_so(recipe, tmp_path, monkeypatch):
    def no_runner(self, artifact, threads=None):
        raise BackendMissing("runs on macOS only")

    monkeypatch.setattr(OnnxBackend, "runner", no_runner)
    result = build(changed(recipe, precisions=["fp32"]), tmp_path / "out", measure="drift")
    (row,) = result.manifest.artifacts
    assert row.status == "ok"
    assert any("runs on macOS only" in note for note in row.notes)
    assert row.drift is None


def test_a_format_this_edgekit_does_not_have_is_not_here(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(FORMATS, "tflite", FormatRow("edgekit.backends.nowhere:Nothing", ()))
    result = build(changed(recipe, formats=["onnx", "tflite"], precisions=["fp32"]), tmp_path / "o", measure="none")
    assert [row.status for row in result.manifest.artifacts] == ["ok", "not here"]
    assert "no tflite backend" in result.manifest.artifacts[1].reason


def test_an_artifact_unlike_its_reference_fails_but_shows_its_drift(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(FACTS, "w8a8", replace(FACTS["w8a8"], least_cosine=1.1))
    result = build(recipe, tmp_path / "out", measure="drift")
    row = result.manifest.artifacts[1]
    assert row.status == "failed"
    assert "cosine" in row.reason
    assert row.drift["n"] == 6


def test_native_code_that_crashes_is_a_failed_row(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("edgekit.backends.onnx.backend.OnnxBackend.fused_missing", lambda self: None)
    export = OnnxBackend.export

    def plain(self, source, precision, variant, path):  # no need for the native library: the crash is what matters
        artifact = export(self, source, precision, "standard", path)
        return artifact.model_copy(update={"variant": variant})

    monkeypatch.setattr(OnnxBackend, "export", plain)
    monkeypatch.setattr("edgekit.measure.worker.ARTIFACT_LOADER", "tests.support.crash:load")
    result = build(changed(recipe, precisions=["fp32"], fused=True), tmp_path / "out", measure="none")
    rows = {row.name: row for row in result.manifest.artifacts}
    assert rows["onnx/fp32"].status == "ok"
    assert rows["onnx/fp32_fused"].status == "failed"
    assert "ended by signal" in rows["onnx/fp32_fused"].reason


def test_further_image_sizes_carry_their_size(recipe, tmp_path):
    sizes = changed(recipe, image_size=[(70, 70), (56, 84)], precisions=["fp32"])
    result = build(sizes, tmp_path / "out", measure="drift")
    rows = {row.name: row for row in result.manifest.artifacts}
    assert rows["onnx/fp32_56x84"].path == "onnx/model_56x84.onnx"
    assert rows["onnx/fp32_56x84"].inputs[0].shape == ("batch", 3, 56, 84)
    assert rows["onnx/fp32_56x84"].drift["sqnr_db"] > 90
    assert (tmp_path / "out" / "56x84" / "golden" / "inputs.safetensors").exists()


def test_normalisation_in_the_graph_is_done_once(recipe, tmp_path, pictures, built):
    graph = changed(recipe, normalize="graph", precisions=["fp32"])
    build(graph, tmp_path / "out", measure="none")
    inside, outside = load(tmp_path / "out"), load(built.out / "onnx" / "model.onnx")
    assert inside.artifact.preprocess.normalize == "graph"
    a, b = (model(pictures / "03.png")["pooler_output"] for model in (inside, outside))
    np.testing.assert_allclose(a, b, atol=2e-4)


def test_another_build_in_the_same_folder_is_refused(recipe, tmp_path):
    with folder_lock(tmp_path / "out"), pytest.raises(DataError, match="another build"):
        build(recipe, tmp_path / "out")
    assert build(changed(recipe, precisions=["fp32"]), tmp_path / "out", measure="none").made == ("onnx/fp32",)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kill_9_leaves_finished_artifacts_and_nothing_half_written(recipe, tmp_path):
    out = tmp_path / "out"
    request = tmp_path / "recipe.json"
    request.write_text(recipe.model_dump_json())
    program = (
        "import sys, time; from pathlib import Path; from edgekit.recipe import Recipe\n"
        "from edgekit.backends.onnx.backend import OnnxBackend\n"
        "import edgekit.backends.onnx.backend as module\n"
        "from edgekit.pipeline import build\n"
        "save = module._save\n"
        "def slow(model, path):\n"
        "    save(model, path)\n"
        "    if 'w8a8' in path.name: print('half', flush=True); time.sleep(60)\n"
        "module._save = slow\n"
        "build(Recipe.model_validate_json(Path(sys.argv[1]).read_text()), sys.argv[2], measure='none')\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(request), str(out)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "half\n"  # the INT8 file is written, but not yet in its place
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert [row.name for row in Manifest.read(out).artifacts] == ["onnx/fp32"]
    assert not (out / "onnx" / "model_w8a8.onnx").exists()
    result = build(recipe, out, measure="none")
    assert (result.kept, result.made) == (("onnx/fp32",), ("onnx/w8a8",))
    assert not [path for path in (out / "onnx").iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_is_said_in_one_line(model_flags, tmp_path):
    command = [sys.executable, "-m", "edgekit", "build", *model_flags, "--out", str(tmp_path / "out")]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - background jobs ignore it
    )
    while not (tmp_path / "out" / "manifest.json").exists():
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_folder_of_the_schema_before_is_refused_with_the_way_out(out):
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace("edgekit.build/2", "edgekit.build/1"))
    with pytest.raises(DataError, match=r"is a build folder of edgekit\.build/1, this edgekit reads edgekit\.build/2"):
        load(out)
