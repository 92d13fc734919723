"""Distillations that were killed, are finished, or run over two processes."""

from __future__ import annotations

import pytest

from edgekit.workflows.distill import Outcome
from tests.support.distil_runs import kill, require_alike, rows, run, scalars, two_processes


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
