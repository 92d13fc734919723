"""The parts of a distillation: averages, rates, groups of parameters, the diary and the settings."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from edgekit.distill.beginning import begin
from edgekit.distill.distributed import DistributedContext, autocast_of
from edgekit.distill.group import Group, chosen
from edgekit.distill.images import Split, Stream
from edgekit.distill.judge import Score
from edgekit.distill.log import Log
from edgekit.distill.loss import TokenLoss
from edgekit.distill.recipe import DistillRecipe
from edgekit.distill.student import Student, StudentSpec
from edgekit.distill.train import Run, parameter_groups, rate_at
from edgekit.errors import RecipeError
from edgekit.models.vit import VisionTransformer, random_model
from tests.support.models import TINY, TINY_REG, photographs

RECIPE = DistillRecipe(image_size=56, steps=10, batch=8, seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photographs(tmp_path / "photos", 20)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def deep() -> VisionTransformer:
    return random_model(replace(TINY, depth=6, interpolation="size"))


# ---- averages, rates, groups of parameters


def _group(copies: int = 2) -> Group:
    begun = begin(StudentSpec(depth=2), random_model(replace(TINY, depth=3)), side=56, seed=0)
    return Group.of("g", begun, copies, 128, TokenLoss(), 0)


@torch.no_grad()
def test_averages_are_of_the_students():
    group = _group()
    first, second = group.students
    start = first.backbone.norm.bias.clone()
    first.backbone.norm.bias += 1
    second.backbone.norm.bias += 3
    torch.testing.assert_close(group.average().backbone.norm.bias, start + 2)
    group.follow(0.9, 0)  # d = 0.1
    torch.testing.assert_close(group.ema.backbone.norm.bias, start + 0.9 * 2)
    group.follow(0.9, 1000)  # d = 0.9
    torch.testing.assert_close(group.ema.backbone.norm.bias, start + 0.9 * 1.8 + 0.1 * 2)
    assert [name for name, _ in group.members()] == ["student 1", "student 2", "average", "ema"]
    assert [name for name, _ in _group(1).members()] == ["student 1", "ema"]
    assert not any(parameter.requires_grad for parameter in group.ema.parameters())


@pytest.mark.parametrize(
    ("losses", "name"),
    [
        ({"student 1": 1.0, "student 2": 2.0, "average": 1.4, "ema": 1.3}, "ema"),
        ({"student 1": 1.0, "student 2": 2.0, "average": 1.2, "ema": 1.3}, "average"),
        ({"student 1": 1.0, "student 2": 2.0, "average": 1.6, "ema": 1.7}, "student 1"),  # worse than 1.5
        ({"student 1": 1.0, "ema": 1.1}, "student 1"),
        ({"student 1": 1.0, "ema": 0.9}, "ema"),
    ],
)
def test_the_graduate_is_never_worse_than_the_mean_of_the_students(losses, name):
    nothing = {"cls_cosine": 0.0, "patch_cosine": 0.0, "cls_centred": 0.0, "patch_centred": 0.0}
    scores = {key: Score(loss=loss, n=1, **nothing) for key, loss in losses.items()}
    assert chosen(scores) == name


def test_the_rate_rises_and_falls_like_a_cosine():
    recipe = DistillRecipe(steps=100, warmup=0.1, rate=1.0, final_rate=0.1)
    rates = [rate_at(step, recipe) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(0.1)
    assert rates[10 + 89 // 2] == pytest.approx(0.55, abs=0.01)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rate_at(0, DistillRecipe(steps=1)) == pytest.approx(3e-4)


def test_each_part_of_a_run_has_its_own_rates():
    recipe = DistillRecipe(steps=100, warmup=0.1, tune_rate=1.0, block_rate=5.0, final_rate=0.1, blockwise=0.4)
    rates = [rate_at(step, recipe, ((0, 1),)) for step in range(100)]
    assert (rates[4], rates[39], rates[46], rates[99]) == pytest.approx((5.0, 0.1, 1.0, 0.1))
    only = DistillRecipe(steps=10, blockwise=1.0, block_rate=2.0, warmup=0, final_rate=0)
    assert [rate_at(step, only, ((0, 1),)) for step in (0, 9)] == pytest.approx([2.0, 0.0])


def test_only_matrices_decay():
    student = Student(random_model(TINY_REG), 128, TokenLoss(), 0)
    matrices, others = (group["params"] for group in parameter_groups(student, 0.04))
    assert all(value.ndim >= 2 for value in matrices)
    tokens = {student.backbone.cls_token, student.backbone.pos_embed, student.backbone.register_tokens}
    assert tokens <= set(others)
    assert len(matrices) + len(others) == len(list(student.parameters()))


def test_the_second_part_of_a_run_begins_with_moments_of_its_own(folder, deep):
    recipe = RECIPE.model_copy(update={"blockwise": 0.5, "copies": 1})
    begun = begin(StudentSpec(depth=2), deep, side=56, seed=0)
    group = Group.of("g", begun, 1, 128, TokenLoss(), 0)
    run = Run(
        Student(deep.bake(56, 56), 128, TokenLoss(), 0).eval(),
        [group],
        recipe,
        DistributedContext(0, 1, torch.device("cpu")),
        "",
    )
    run.shared = list(run.students)
    weight = group.students[0].backbone.blocks[1].mlp.fc1.weight
    counts = []
    for batch in Stream(Split.of(folder, recipe), recipe).batches(3, 7):
        run.step(batch)
        counts.append(int(run.optimizer.state[weight]["step"]))
    assert counts == [1, 2, 1, 2]


# ---- the diary


@pytest.mark.parametrize(
    ("text", "done", "left"),
    [
        ("step,loss\n1,0.5\n2,0.4\n3,0.3\n", 2, "step,loss\n1,0.5\n2,0.4\n"),
        ("step,loss\n1,0.5\n2", 2, "step,loss\n1,0.5\n"),  # cut off by a kill
        ("step,loss\n1,0.5\n", 0, None),
        ("", 3, None),
    ],
)
def test_rows_beyond_the_checkpoint_are_dropped(text, done, left, tmp_path):
    (tmp_path / "log.csv").write_text(text)
    with Log(tmp_path, done, "off"):
        pass
    assert ((tmp_path / "log.csv").read_text() if (tmp_path / "log.csv").exists() else None) == left


def test_tensorboard_reads_a_run_before_the_one_that_resumed_it(tmp_path):
    """Files are read in the order of their names; both runs here begin within a second."""
    opened = []
    for done in (0, 1):
        with Log(tmp_path, done, "on") as log:
            log.row("log", {"step": done + 1, "loss": 0.5})
        opened.append(set((tmp_path / "tensorboard").iterdir()))
    (first,), (second,) = opened[0], opened[1] - opened[0]
    assert first.name.split(".")[3] < second.name.split(".")[3]


# ---- settings


@pytest.mark.parametrize(
    ("values", "message"),
    [({"image_size": 0}, "image_size"), ({"steps": 0}, "steps"), ({"lr": 1}, "lr"), ({"ema": 1.0}, "ema")],
)
def test_bad_settings_are_named(values, message):
    with pytest.raises(RecipeError, match=message):
        DistillRecipe.make(values)


def test_what_only_reports_is_not_in_the_digest(tmp_path):
    (tmp_path / "r.toml").write_text("log_every = 1\ncheckpoint_every = 7\n")
    assert DistillRecipe.from_toml(tmp_path / "r.toml").digest == DistillRecipe().digest
    assert DistillRecipe(steps=3).digest != DistillRecipe().digest


def test_precision_follows_the_device(monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 0)
    assert autocast_of(RECIPE, cpu) is None
    assert autocast_of(RECIPE.model_copy(update={"precision": "bfloat16"}), cpu) is torch.bfloat16
    with pytest.raises(RecipeError, match="float16 on cpu"):
        autocast_of(RECIPE.model_copy(update={"precision": "float16"}), cpu)
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        assert autocast_of(RECIPE, cuda) is dtype
    assert autocast_of(RECIPE.model_copy(update={"precision": "float32"}), cuda) is None
