"""Distillations of a tiny teacher: whole, killed, over two processes, and what they leave."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from edgekit.distill.recipe import DistillRecipe
from edgekit.pipeline.watch import Silent
from edgekit.workflows.distill import Distilled, Outcome, Running, distil_folder

ROOT = Path(__file__).parents[2]
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
