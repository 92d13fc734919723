"""The command line as a user meets it: what it prints, what it exits with, and that it never shows a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.artifact import FORMATS
from edgekit.cli import COMMANDS, main


@pytest.fixture
def flags(model_flags, pictures, tmp_path):
    return [*model_flags, "--eval", str(pictures), "--precision", "fp32,w8a8", "--out", str(tmp_path / "out")]


def error_of(capsys, *words: str) -> tuple[int, str]:
    code = main(list(words))
    return code, capsys.readouterr().err


def test_help_lists_every_command_and_loads_no_runtime():
    program = (
        "import sys; from edgekit.cli import main; code = main(['--help'])\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "print('loaded', sorted(heavy)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)
    assert "loaded []" in done.stdout


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert "--" in capsys.readouterr().out


def test_dry_run_names_every_artifact_and_writes_nothing(flags, tmp_path, capsys):
    assert main(["build", *flags, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {"onnx/fp32", "onnx/w8a8"} <= {row["name"] for row in plan["artifacts"]}
    assert not (tmp_path / "out").exists()


def test_export_then_json_of_the_same_build(flags, tmp_path, capsys):
    at = flags.index("--eval")
    assert main(["export", *flags[:at], *flags[at + 2 :], "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"onnx/fp32", "onnx/w8a8"} <= set(result["made"])  # and the fused ones, where there is a compiler
    assert (tmp_path / "out" / "onnx" / "model_w8a8.onnx").exists()
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "edgekit.build/2"
    assert main(["inspect", str(tmp_path / "out" / "onnx" / "model_w8a8.onnx"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    audit = facts["audit"]
    assert audit["gemms"] == audit["gemms_int8"] + audit["gemms_float"] > 0
    assert "attentions in several ops" in facts["placement"]
    assert main(["inspect", str(tmp_path / "out" / "onnx" / "model_w8a8.onnx")]) == 0
    shown = capsys.readouterr().out
    assert "GEMMs" in shown
    assert "attention_products_float" not in shown  # in words only


def test_a_plan_made_first_is_the_one_a_build_writes_out(flags, tmp_path, capsys, monkeypatch):
    at = flags.index("--eval")
    words = [*flags[:at], *flags[at + 2 :], "--json"]
    assert main(["quantize", *words]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert [Path(plan["path"]).name for plan in plans] == ["int8.safetensors", "int8_weights.safetensors"]
    assert [plan["gemms"] for plan in plans] == [8, 8]  # four in each of two blocks; the patch embedding stays float

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("quantized twice")

    monkeypatch.setattr("edgekit.quantization.engine.quantize", refuse)
    assert main(["export", *words]) == 0
    assert "onnx/w8a8" in json.loads(capsys.readouterr().out)["made"]


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["build", "--model", "demmo", "--out", "x"], 2, "did you mean demo?"),
        (["build", "--image-size", "225", "--out", "x"], 2, "--image-size 224"),
        (["build", "--image-size", "big", "--out", "x"], 2, "not a number of pixels"),
        (["build", "--format", "onyx", "--out", "x"], 2, "onyx"),
        (["build", "--recipe", "none.toml", "--out", "x"], 2, "none.toml"),
        (["build", "--nonsense", "--out", "x"], 2, "No such option"),
        (["build"], 2, "--out"),
        (["inspect", "nothing/here"], 2, "unknown model"),
        (["drift", "nothing/here"], 1, "nothing/here"),
        (["bench", "nothing.onnx"], 1, "does not exist"),
        (["report", "nothing"], 1, "no report"),
        (["embed", "nothing", "demo", "--out", "f.npz"], 1, "nothing"),
        (["quantize", "--precision", "fp32", "--out", "x"], 2, "no integer precision"),
    ],
)
def test_wrong_requests_are_one_clear_error(words, code, what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, errors = error_of(capsys, *words)
    assert got == code
    assert what in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_out_is_said_plainly(flags, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, errors = error_of(capsys, "build", *flags[:-1], str(tmp_path / "file" / "out"))
    assert code == 1
    assert "cannot write to" in errors


def test_a_full_disk_is_said_plainly(flags, tmp_path, capsys, monkeypatch):
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgekit.manifest.Manifest.write", full)
    code, errors = error_of(capsys, "build", *flags)
    assert code == 1
    assert "No space left on device" in errors
    assert "free some space" in errors


def test_a_folder_of_broken_images_names_them(flags, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    for i in range(3):
        (broken / f"{i}.png").write_bytes(b"no picture")
    flags[flags.index("--calib") + 1] = str(broken)
    code, errors = error_of(capsys, "build", *flags)
    assert code == 1
    assert "none of the 3 images" in errors
    assert "0.png" in errors


def test_one_broken_image_is_skipped_and_named_in_the_report(built, pictures, recipe, tmp_path):
    from edgekit.pipeline import build
    from edgekit.recipe import Recipe

    mixed = tmp_path / "mixed"
    shutil.copytree(pictures, mixed)
    (mixed / "zz.png").write_bytes(b"no picture")
    values = recipe.model_dump() | {"evaluation": str(mixed), "evaluation_samples": 25, "precisions": ["fp32"]}
    build(Recipe.make(values), tmp_path / "out", measure="drift")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [skip["name"] for skip in report["skipped"]] == ["zz.png"]


def test_errors_are_json_when_asked_for(capsys):
    assert main(["build", "--model", "demmo", "--out", "x", "--json"]) == 2
    assert "demmo" in json.loads(capsys.readouterr().out)["error"]["what"]


def test_a_bug_is_no_traceback(capsys, monkeypatch):
    def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("edgekit.workflows.doctor.examine", broken)
    code, errors = error_of(capsys, "doctor")
    assert code == 1
    assert "ZeroDivisionError: oops" in errors
    assert "Traceback" not in errors


def test_the_drift_gate_closes(built, pictures, capsys):
    words = ["drift", str(built.out), "--eval", str(pictures), "--samples", "4"]
    assert main([*words, "--max-drop", "0.5"]) == 0
    assert "onnx/w8a8" in capsys.readouterr().out
    code, errors = error_of(capsys, *words, "--max-drop", "0")
    assert code == 3
    assert "onnx/w8a8 drops" in errors


def test_embed_writes_named_features(built, pictures, tmp_path, capsys):
    out = tmp_path / "features.npz"
    assert main(["embed", str(built.out), str(pictures), "--out", str(out), "--tokens", "patches"]) == 0
    found = np.load(out)
    assert found["features"].shape == (24, 5, 5, 128)
    assert found["paths"][0] == "00.png"


def test_bench_times_in_turns(built, capsys):
    assert main(["bench", str(built.out), "--rounds", "3", "--threads", "1", "--json"]) == 0
    run = json.loads(capsys.readouterr().out)
    assert set(run["reports"]) == {"onnx/fp32", "onnx/w8a8"}
    assert run["reports"]["onnx/w8a8"]["speedup"]["reference"] == "onnx/fp32"


def test_models_and_doctor_are_json(capsys):
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["aliases"] == ["demo"]
    assert main(["doctor", "--json"]) == 0
    health = json.loads(capsys.readouterr().out)
    assert {backend["name"] for backend in health["backends"]} == set(FORMATS)
