"""Small promises of the first hour: the report as JSON and beside another build, the Python door, one student."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgekit
from edgekit.cli import COMMANDS, command_of, main
from edgekit.errors import DataError, RecipeError
from edgekit.pipeline import build
from edgekit.recipe import Recipe
from edgekit.report import redraw
from edgekit.report.content import BuildReport


def test_every_command_takes_json():
    without = [name for name in COMMANDS if not any("--json" in p.opts for p in command_of(name).params)]
    assert without == []


def test_the_report_is_json_when_asked_for(out, capsys):
    assert main(["report", str(out), "--optimize-for", "size", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["report"]) == out / "report.html"
    assert found["verdict"]["aim"]["goal"] == "size"
    assert found["changes"] is None
    assert main(["report", str(out), "--against", str(out), "--json"]) == 0
    changes = {row["name"]: row for row in json.loads(capsys.readouterr().out)["changes"]}
    assert changes["onnx/w8a8"]["size"][0] == changes["onnx/w8a8"]["size"][1] != ""


def test_every_build_measures_the_drift_behind_each_block(out):
    layers = BuildReport.read_json(out / "report.json").layers
    assert layers is not None
    assert [block.block for block in layers.blocks] == [0, 1]
    assert all(10 < block.all_db < 100 for block in layers.blocks)
    assert "Drift layer by layer" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"image_size": [(56, 56)]}, "takes images of 56x56"),
        ({"evaluation_samples": 5}, "judged on other images"),
        ({"seed": 3}, "judged on other images"),
    ],
)
def test_builds_of_another_size_or_other_images_are_not_compared(change, what, out, recipe, tmp_path, capsys):
    values = recipe.model_dump() | {"precisions": ["fp32"]} | change
    build(Recipe.make(values), tmp_path / "other", measure="drift")
    before = (out / "report.html").read_bytes(), (out / "manifest.json").read_bytes()
    assert main(["report", str(out), "--against", str(tmp_path / "other"), "--optimize-for", "size"]) == 1
    assert what in capsys.readouterr().err
    assert before == ((out / "report.html").read_bytes(), (out / "manifest.json").read_bytes())


def test_other_pictures_under_the_same_names_are_other_images(out, tmp_path):
    report = BuildReport.read_json(out / "report.json")
    report.model_copy(update={"images_digest": "0" * 64}).write_json(tmp_path)
    with pytest.raises(DataError, match="other images"):
        redraw(out, against=tmp_path)
    report.model_copy(update={"images_digest": ""}).write_json(tmp_path)  # of an edgekit that kept none
    redraw(out, against=tmp_path)


def test_a_name_and_plain_settings_make_a_build(checkpoint, pictures, tmp_path):
    settings = {"image_size": 70, "formats": "onnx", "precisions": "fp32", "fused": False, "calibration": pictures}
    result = edgekit.build(checkpoint, tmp_path / "out", measure="none", **settings)
    assert result.made == ("onnx/fp32",)
    again = edgekit.build(str(checkpoint), str(tmp_path / "out"), measure="none", **settings)
    assert again.kept == ("onnx/fp32",)


def test_settings_in_plain_words():
    assert Recipe.of("demo") == Recipe()
    made = Recipe.of("demo", precisions="fp32, w8a8", image_size=448, calibration="photos/", seed=3)
    assert (made.precisions, made.image_size, made.seed) == (("fp32", "w8a8"), ((448, 448),), 3)
    assert made.calibration.source == made.evaluation == "photos/"
    assert Recipe.of("demo", calibration="photos", evaluation="demo").evaluation == "demo"
    assert Recipe.of(made, seed=4) == made.model_copy(update={"seed": 4})
    assert Recipe.of(Path("demo")).model == str(Path("demo").absolute())  # a Path is never a name


@pytest.mark.parametrize(
    ("model", "settings", "what"),
    [
        (None, {}, "None is no model"),
        (5, {}, "5 is no model"),
        ("demmo", {}, "did you mean demo"),
        ("demo", {"precision": "fp32"}, "did you mean precisions?"),
        ("demo", {"image_size": 225}, "multiple of 14"),
        ("demo", {"formats": "onyx"}, "onyx"),
    ],
)
def test_what_cannot_be_built_is_said(model, settings, what, tmp_path):
    with pytest.raises(RecipeError, match=what.replace("?", r"\?")):
        edgekit.build(model, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_the_public_names_are_shown_without_loading_anything():
    program = "import sys, edgekit; print(*dir(edgekit)); print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names, loaded = done.stdout.splitlines()
    assert set(edgekit.__all__) <= set(names.split())
    assert loaded == "set()"


@pytest.mark.parametrize(
    ("typed", "meant"), [("buidl", "build"), ("bulid", "build"), ("quantise", "quantize"), ("Build", "build")]
)
def test_an_unknown_command_gets_a_suggestion(typed, meant, capsys):
    assert main([typed, "--out", "x"]) == 2
    assert f"Did you mean {meant}" in capsys.readouterr().err
    assert main(["xyzzy"]) == 2
    assert "No such command" in capsys.readouterr().err


@pytest.mark.parametrize(("copies", "said"), [(1, "1 student,"), (2, "2 students,")])
def test_an_only_student_is_no_plural(copies, said, checkpoint, pictures, tmp_path, capsys):
    words = [
        "distill",
        "--teacher",
        str(checkpoint),
        "--student",
        "depth=1",
        "--data",
        str(pictures),
        "--steps",
        "2",
        "--batch",
        "4",
        "--image-size",
        "28",
        "--threads",
        "1",
        "--tensorboard",
        "off",
        "--out",
        str(tmp_path / "out"),
        "--copies",
        str(copies),
    ]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert said in shown.err
    assert ("students" in shown.out + shown.err) is (copies == 2)
    assert ("student 1" in shown.out) is (copies == 2)


def test_a_piped_build_says_each_step_and_how_far_it_is(model_flags, tmp_path):
    wanted = ["--precision", "fp32,w8a8", "--out", str(tmp_path / "out")]
    words = [sys.executable, "-m", "edgekit", "build", *model_flags, *wanted]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    steps = re.findall(r"^ *(\S+)  \((\d+) of (\d+), \d+:\d\d elapsed(, about \d+:\d\d left)?\)$", done.stdout, re.M)
    total = len(steps)
    assert [step[1:3] for step in steps] == [(str(i + 1), str(total)) for i in range(total)]
    assert [steps[0][0], steps[-2][0], steps[-1][0]] == ["onnx/fp32", "latency", "report"]
    assert all(step[3] for step in steps[1:])
    quiet = subprocess.run([*words, "-q"], capture_output=True, text=True, check=True)
    assert "elapsed" not in quiet.stdout + quiet.stderr
    assert "report  " in quiet.stdout
