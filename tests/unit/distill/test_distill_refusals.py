"""Distillations that are refused or fail: nothing of others is touched, nothing half-written is left."""

from __future__ import annotations

import json

import pytest

from edgekit.cli import main
from edgekit.distill import log, train
from edgekit.errors import BackendMissing, DataError, RecipeError
from edgekit.pipeline.watch import Silent
from edgekit.workflows.distill import Running, distil_folder
from tests.support.distil_runs import FLAGS, RECIPE, run
from tests.support.models import photographs


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": "nowhere"}, DataError, "nowhere is not a folder of images"),
        ({"data": "few"}, DataError, "15 images, too few"),
        ({"student": "dinov2_vits"}, RecipeError, "unknown student 'dinov2_vits'"),
        ({"student": "width=64,init=teacher"}, RecipeError, "width 64 is not 128"),
        ({"teacher": "absent.pth"}, RecipeError, "absent.pth"),
        ({"device": "cuda:7"}, BackendMissing, "cuda:7"),
        ({"device": "abacus"}, RecipeError, "abacus"),
        ({"recipe": RECIPE.model_copy(update={"precision": "float16"})}, RecipeError, "float16 on cpu"),
    ],
)
def test_what_cannot_be_writes_nothing(change, error, message, files, tmp_path):
    if not (files / "few").exists():
        photographs(files / "few", 15)
    given = {
        "teacher": str(files / "teacher.safetensors"),
        "student": "depth=2",
        "data": "photos",
        "device": "cpu",
        "recipe": RECIPE,
    } | change
    with pytest.raises(error, match=message):
        distil_folder(
            given["teacher"],
            [given["student"]],
            files / given["data"],
            tmp_path / "out",
            given["recipe"],
            Running(given["device"], "off"),
            Silent(),
        )
    assert not list(tmp_path.iterdir())


def test_a_folder_of_another_run_or_of_something_else_is_left_alone(whole, files, tmp_path):
    with pytest.raises(DataError, match=r"another run.*seed was 1, not 2"):
        run(files, files / "whole", recipe=RECIPE.model_copy(update={"seed": 2}))
    with pytest.raises(DataError, match="'blocks': "):
        run(files, files / "whole", "blocks=1+3")
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(DataError, match=r"holds other files \(diary.txt\)"):
        run(files, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(files, tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Run, "judged", lambda *_: {"dinov2_128x2/start": None})
    monkeypatch.setattr(train, "_validated", lambda *_: None)
    monkeypatch.setattr(train, "chosen", stop)
    with pytest.raises(KeyboardInterrupt):
        run(files, tmp_path / "out", recipe=RECIPE.model_copy(update={"judge_every": 100}))
    monkeypatch.undo()
    checkpoint = tmp_path / "out/checkpoint.safetensors"
    whole_bytes = checkpoint.read_bytes()
    assert not (tmp_path / "out/student.safetensors").exists()
    checkpoint.write_bytes(whole_bytes[: len(whole_bytes) // 2])
    with pytest.raises(DataError, match="is damaged"):
        run(files, tmp_path / "out")
    name = json.loads((tmp_path / "out/run.json").read_text())["run"].encode()
    checkpoint.write_bytes(whole_bytes.replace(name, b"0123456789abcdef"))
    with pytest.raises(DataError, match="is of another run"):
        run(files, tmp_path / "out")


@pytest.mark.parametrize(("every", "rate", "what"), [(100, 1e30, "loss is no number"), (1, 1e39, "weights are no")])
def test_a_run_that_diverges_says_so_and_keeps_no_such_checkpoint(every, rate, what, files, tmp_path):
    wild = RECIPE.model_copy(update={"block_rate": rate, "warmup": 0.0, "checkpoint_every": every})
    with pytest.raises(DataError, match=f"student 1 has diverged: its {what}"):
        run(files, tmp_path / "out", recipe=wild)
    assert not (tmp_path / "out/checkpoint.safetensors").exists()


def test_tensorboard_that_is_missing_is_said_to_be(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    with pytest.raises(BackendMissing, match=r"need tensorboard.*edgekit\[distill\]"):
        run(files, tmp_path / "out", board="on")
    assert not list(tmp_path.iterdir())
    words = [
        "distill",
        "--teacher",
        str(files / "teacher.safetensors"),
        "--data",
        str(files / "photos"),
        "--student",
        "depth=1",
        "--out",
        str(tmp_path / "out"),
        "--threads",
        "1",
        *FLAGS,
        "--steps",
        "2",
    ]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "no TensorBoard files: pip install 'edgekit[distill]'" in said.err
    assert not (tmp_path / "out/tensorboard").exists()
    assert "dinov2_128x1" in said.out
    assert f"edgekit build --model {tmp_path / 'out/student.safetensors'} --out OUT" in said.out
