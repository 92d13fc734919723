"""Whole distillations of a tiny teacher: killed and resumed, over two processes, refused, and built."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgekit.artifact import Manifest
from edgekit.cli import main
from edgekit.distill import log, train
from edgekit.distill.recipe import DistillRecipe
from edgekit.errors import BackendMissing, DataError, RecipeError
from edgekit.models import zoo
from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.vit import random_model
from edgekit.pipeline import build
from edgekit.pipeline.watch import Silent
from edgekit.recipe import Recipe
from edgekit.workflows.distill import Distilled, Outcome, Running, distil_folder
from tests.support.models import TINY, photographs

ROOT = Path(__file__).parents[3]
SETTINGS = {
    "image_size": 56,
    "steps": 12,
    "batch": 8,
    "rate": 2e-3,
    "log_every": 1,
    "judge_every": 5,
    "checkpoint_every": 4,
    "seed": 1,
}
RECIPE = DistillRecipe.make(SETTINGS)
FLAGS = [word for key, value in SETTINGS.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.fixture(autouse=True, scope="module")
def _threads() -> Iterator[None]:
    """The runs set torch's threads; other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with teacher.safetensors (4 blocks) and photos/."""
    folder = tmp_path_factory.mktemp("distil")
    save_checkpoint(random_model(replace(TINY, depth=4)), folder / "teacher.safetensors")
    photographs(folder / "photos", 24)
    return folder


@pytest.fixture(scope="module")
def whole(files: Path) -> Distilled:
    """A run that nobody interrupts, in files/whole."""
    return run(files, files / "whole").distilled


def run(files: Path, out: Path, student: str = "depth=2", recipe: DistillRecipe = RECIPE, **given: str) -> Outcome:
    outcome = distil_folder(
        given.get("teacher", str(files / "teacher.safetensors")),
        student.split(),
        files / "photos",
        out,
        recipe,
        Running("cpu", given.get("board", "auto"), threads=1),
        Silent(),
    )
    assert outcome is not None
    return outcome


def kill(files: Path, out: Path, step: int) -> None:
    """A run like `whole` in a process of its own, which kill -9 ends after so many steps."""
    victim = [
        sys.executable,
        "-m",
        "tests.support.distil_victim",
        str(step),
        str(files / "teacher.safetensors"),
        "depth=2",
        str(files / "photos"),
        str(out),
        json.dumps(SETTINGS),
    ]
    killed = subprocess.run(victim, cwd=ROOT, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def two_processes(files: Path, out: Path) -> Distilled:
    """A run like `whole` by torchrun; the first process alone speaks."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "edgekit",
        "distill",
        "--teacher",
        str(files / "teacher.safetensors"),
        "--student",
        "depth=2",
        "--data",
        str(files / "photos"),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--threads",
        "1",
        "--json",
        *FLAGS,
    ]
    done = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return Distilled.model_validate_json(done.stdout)


def require_alike(out: Path, files: Path) -> None:
    """Losses and weights of `whole` but for rounding."""
    mine, theirs = rows(out / "log.csv"), rows(files / "whole/log.csv")
    assert [row["step"] for row in mine] == [row["step"] for row in theirs]
    for name in ("block_loss_1", "block_loss_2", "loss_1", "loss_2", "cls_cosine_1", "patch_smooth_l1_2"):
        part = slice(5) if name.startswith("block") else slice(5, None)
        np.testing.assert_allclose(
            [float(r[name]) for r in mine[part]], [float(r[name]) for r in theirs[part]], rtol=5e-4
        )
    a, b = (load_file(folder / "student.safetensors")["blocks.1.mlp.fc1.weight"] for folder in (out, files / "whole"))
    moved = (b - load_file(files / "teacher.safetensors")["blocks.2.mlp.fc1.weight"]).abs().mean()
    assert (a - b).abs().mean() < 0.02 * moved


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_students_come_nearer_and_the_better_average_graduates(whole, files):
    (row,) = whole.graduates
    start, graduate = row.scores["start"], row.scores[row.kind]
    assert graduate.cls_cosine > start.cls_cosine + 0.05
    assert graduate.patch_cosine > start.patch_cosine + 0.05
    assert row.kind in ("average", "ema")
    assert graduate.loss <= row.students_mean
    assert (whole.training_images, whole.held_out_images) == (22, 2)
    table = rows(files / "whole/log.csv")
    assert [bool(row["block_loss_1"]) for row in table] == [True] * 5 + [False] * 7  # 0.4 of 12 steps
    assert [bool(row["loss_1"]) for row in table] == [False] * 5 + [True] * 7
    assert float(table[4]["block_loss_1"]) < float(table[0]["block_loss_1"])
    assert table[0]["block_loss_1"] == table[0]["block_loss_2"]  # begun alike, shown the same
    assert table[7]["loss_1"] != table[7]["loss_2"]
    assert not (files / "whole/checkpoint.safetensors").exists()


def test_the_graduate_is_what_was_judged(whole, files):
    described = zoo.load(files / "whole/student.safetensors")
    loaded = described.model
    assert described.origin.startswith("distilled from teacher.safetensors (local checkpoint) by edgekit ")
    assert described.licence.startswith("unknown")
    assert (loaded.config.depth, loaded.config.arch) == (2, "dinov2_128x2")
    assert loaded.config.interpolation == TINY.interpolation
    from edgekit.distill.images import Split, held_out_pixels

    pixels = torch.from_numpy(held_out_pixels(Split.of(files / "photos", RECIPE), 56)[0])
    teacher = zoo.load(files / "teacher.safetensors").model
    with torch.no_grad():
        a, b = teacher.bake(56, 56)(pixels)[0], loaded.bake(56, 56)(pixels)[0]
    cosines = torch.nn.functional.cosine_similarity(a, b, dim=-1)
    score = whole.graduates[0].scores[whole.graduates[0].kind]
    assert cosines[:, 0].mean().item() == pytest.approx(score.cls_cosine, abs=1e-5)
    assert cosines[:, 1:].mean().item() == pytest.approx(score.patch_cosine, abs=1e-5)


@pytest.mark.parametrize("step", [7, pytest.param(2, marks=pytest.mark.full)])
def test_a_killed_run_goes_on_to_the_same_bytes(step, whole, files, tmp_path):
    kill(files, tmp_path / "out", step)
    assert (tmp_path / "out/checkpoint.safetensors").exists() == (step > 4)
    assert len(rows(tmp_path / "out/log.csv")) == step
    assert not (tmp_path / "out/student.safetensors").exists()
    outcome = run(files, tmp_path / "out")
    assert outcome.fate == ("resumed" if step > 4 else "new")
    assert outcome.distilled == whole
    for name in ("log.csv", "validation.csv", "student.safetensors", "distill.json", "run.json"):
        assert (tmp_path / "out" / name).read_bytes() == (files / "whole" / name).read_bytes(), name
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in (files / "whole").iterdir())
    assert scalars(tmp_path / "out/tensorboard") == scalars(files / "whole/tensorboard")


def test_tensorboard_shows_what_the_tables_say(whole, files):
    shown = scalars(files / "whole/tensorboard")
    table = rows(files / "whole/log.csv")
    assert [step for step, _ in shown["log/block_loss_2"]] == list(range(1, 6))
    assert [step for step, _ in shown["log/loss_2"]] == list(range(6, 13))
    assert [value for _, value in shown["log/loss_2"]] == pytest.approx([float(row["loss_2"]) for row in table[5:]])
    judged = [row for row in rows(files / "whole/validation.csv") if row["model"] == "dinov2_128x2/ema"]
    assert [int(row["step"]) for row in judged] == [5, 10, 12]
    assert [value for _, value in shown["validation/dinov2_128x2/ema/cls_cosine"]] == pytest.approx(
        [float(row["cls_cosine"]) for row in judged]
    )


def test_a_finished_run_is_kept(whole, files):
    before = {path: path.stat().st_mtime_ns for path in (files / "whole").rglob("*") if path.is_file()}
    assert run(files, files / "whole") == Outcome(whole, "kept")
    assert {path: path.stat().st_mtime_ns for path in (files / "whole").rglob("*") if path.is_file()} == before


def test_two_processes_are_one_with_the_double_batch(whole, files, tmp_path):
    told = two_processes(files, tmp_path / "out")
    assert told.processes == 2
    require_alike(tmp_path / "out", files)
    assert told.graduates[0].scores["start"].loss == pytest.approx(whole.graduates[0].scores["start"].loss, rel=1e-5)


@pytest.mark.full
def test_two_processes_go_on_from_one(whole, files, tmp_path):
    kill(files, tmp_path / "out", 10)
    told = two_processes(files, tmp_path / "out")
    assert told.processes == 2
    require_alike(tmp_path / "out", files)
    mine, theirs = rows(tmp_path / "out/log.csv"), rows(files / "whole/log.csv")
    assert mine[:8] == theirs[:8]  # of the checkpoint, to the last digit
    assert mine[8:] != theirs[8:]  # the sums of two halves


def test_other_widths_and_several_architectures_share_a_teacher(files, tmp_path):
    short = RECIPE.model_copy(update={"steps": 4, "copies": 1})
    found = run(files, tmp_path / "out", "width=64,depth=1,registers=2 blocks=0+3", short).distilled
    assert [row.file for row in found.graduates] == [
        "student_dinov2_64x1_reg.safetensors",
        "student_dinov2_128x2.safetensors",
    ]
    wide, narrow = (zoo.load(tmp_path / "out" / row.file).model for row in reversed(found.graduates))
    assert (narrow.config.width, narrow.config.registers, narrow.config.grid) == (64, 2, (4, 4))
    assert narrow.bake(70, 70)(torch.zeros(1, 3, 70, 70))[1].shape == (1, 64)
    teacher = zoo.load(files / "teacher.safetensors").model
    assert torch.equal(wide.pos_embed, teacher.pos_embed)
    assert not torch.equal(wide.blocks[1].mlp.fc1.weight, teacher.blocks[3].mlp.fc1.weight)


@pytest.mark.full
def test_mixed_precision_keeps_weights_in_float32(files, tmp_path, monkeypatch):
    short = RECIPE.model_copy(update={"steps": 6, "precision": "bfloat16"})
    row = run(files, tmp_path / "bf16", recipe=short).distilled.graduates[0]
    assert row.scores["ema"].loss < row.scores["start"].loss
    assert {value.dtype for value in load_file(tmp_path / "bf16/student.safetensors").values()} == {torch.float32}
    # CUDA's float16 with its scaler, on the CPU
    monkeypatch.setattr(train, "autocast_of", lambda *_: torch.float16)
    row = run(files, tmp_path / "fp16", recipe=short).distilled.graduates[0]
    assert row.scores["ema"].loss < row.scores["start"].loss


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


@pytest.mark.full
def test_a_student_is_built(whole, files, tmp_path):
    recipe = Recipe.make(
        {
            "model": str(files / "whole/student.safetensors"),
            "image_size": [[56, 56]],
            "formats": ["onnx"],
            "precisions": ["fp32", "w8a8"],
            "fused": False,
            "evaluation": str(files / "photos"),
            "evaluation_samples": 4,
            "calibration": {"source": str(files / "photos"), "samples": 8},
        }
    )
    build(recipe, tmp_path / "out", measure="drift")
    manifest = Manifest.read(tmp_path / "out")
    assert [(row.name, row.status) for row in manifest.artifacts] == [("onnx/fp32", "ok"), ("onnx/w8a8", "ok")]
    assert manifest.model["config"]["depth"] == 2
    fp32 = manifest.artifacts[0].drift
    assert fp32 is not None
    assert fp32["sqnr_db"] > 90
