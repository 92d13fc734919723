"""Whole distillations of a tiny teacher: the graduate, the tables, other widths, and a build of the student."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgekit.distill import train
from edgekit.manifest import Manifest
from edgekit.models import zoo
from edgekit.pipeline import build
from edgekit.recipe import Recipe
from tests.support.distil_runs import RECIPE, rows, run, scalars
from tests.support.models import TINY


def test_students_come_nearer_and_the_better_average_graduates(whole, files):
    (row,) = whole.graduates
    start, graduate = row.scores["start"], row.scores[row.kind]
    assert graduate.cls_cosine > start.cls_cosine + 0.05
    assert graduate.patch_cosine > start.patch_cosine + 0.05
    assert row.kind in ("average", "ema")
    assert graduate.loss <= np.mean([score.loss for name, score in row.scores.items() if name.startswith("student ")])
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


@pytest.mark.full
def test_a_student_is_built(whole, files, tmp_path):
    recipe = Recipe.make(
        {
            "model": str(files / "whole/student.safetensors"),
            "image_size": [[56, 56]],
            "formats": ["onnx"],
            "precisions": ["fp32", "w8a8"],
            "fused": False,
            "dynamic_ranges": False,
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
