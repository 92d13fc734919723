"""The parts of a distillation: students and their first weights, the loss, crops and their order, averages, rates."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from edgekit.distill.augment import AUGMENTATIONS, Augmentation, augmented, crop_box
from edgekit.distill.group import Group, chosen
from edgekit.distill.images import Split, Stream, weights_of
from edgekit.distill.judge import Score
from edgekit.distill.log import Log
from edgekit.distill.loss import BlockLoss, Standard, TokenLoss
from edgekit.distill.recipe import DistillRecipe
from edgekit.distill.student import Student, StudentSpec, begin
from edgekit.distill.train import Run, parameter_groups, rate_at
from edgekit.distill.world import World, autocast_of
from edgekit.errors import DataError, RecipeError
from edgekit.models.checkpoint import load_checkpoint, save_checkpoint
from edgekit.models.dinov2 import DinoV2, random_model
from tests.generators import TINY, TINY_REG, photographs

RECIPE = DistillRecipe(image_size=56, steps=10, batch=8, seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photographs(tmp_path / "photos", 20)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def deep() -> DinoV2:
    return random_model(replace(TINY, depth=6, interpolation="size"))


# ---- students


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("dinov2_vits14_reg", {"arch": "dinov2_vits14_reg"}),
        ("facebook/dinov2-small", {"arch": "facebook/dinov2-small"}),
        ("depth=6", {"depth": 6}),
        (" depth=3, blocks=0+2+4 , registers=4,init=teacher",
         {"depth": 3, "blocks": (0, 2, 4), "registers": 4, "init": "teacher"}),
    ],
)  # fmt: skip
def test_a_student_in_words(text, fields):
    assert StudentSpec.parse(text).model_dump(exclude_none=True) == {"init": "auto"} | fields


@pytest.mark.parametrize(
    ("name", "text"),
    [("s.toml", 'depth = 3\nblocks = [1, 3, 5]\ninit = "teacher"'), ("s.json", '{"depth": 3, "blocks": [1, 3, 5]}')],
)
def test_a_student_in_a_file(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    assert StudentSpec.parse(str(tmp_path / name)).blocks == (1, 3, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dinov2_vits15", "dinov2_vits14"),
        ("depth=six", "depth = 'six'"),
        ("blocks=0+last", "blocks.1 = 'last'"),
        ("depth=0", "depth = '0'"),
        ("layers=6", "layers = '6'"),
        ("depth=", "depth="),
        ("depth=2,depth=3", "depth=3"),
        ("absent.toml", "cannot read absent.toml"),
    ],
)
def test_a_student_that_is_none(text, message):
    with pytest.raises(RecipeError, match=message):
        StudentSpec.parse(text)


@pytest.mark.parametrize(
    ("words", "blocks", "segments"),
    [
        ("depth=3", (0, 2, 4), ((0, 2), (2, 4), (4, 6))),
        ("depth=4", (0, 1, 3, 4), ((0, 1), (1, 3), (3, 4), (4, 6))),
        ("blocks=1+5", (1, 5), ((0, 5), (5, 6))),
        ("blocks=5+0", (5, 0), ()),  # out of order, no block does the teacher's next
        ("depth=3,registers=2", (0, 2, 4), ()),  # the streams have other tokens
    ],
)
def test_a_student_begins_with_the_blocks_asked_for(words, blocks, segments, deep):
    begun = begin(StudentSpec.parse(words), deep, side=56, seed=0)
    assert begun.model.config.depth == len(blocks)
    assert begun.segments == segments
    for mine, theirs in enumerate(blocks):
        for key, value in deep.blocks[theirs].state_dict().items():
            assert torch.equal(begun.model.blocks[mine].state_dict()[key], value)


@pytest.mark.parametrize("registers", [0, 4])
def test_a_student_begins_with_all_else_of_the_teacher(registers):
    teacher = random_model(replace(TINY_REG, depth=6, registers=registers))
    begun = begin(StudentSpec(depth=3), teacher, side=56, seed=0)
    assert begun.name == "dinov2_128x3" + ("_reg" if registers else "")
    assert begun.positions == "frozen"
    rest = {key: value for key, value in teacher.state_dict().items() if not key.startswith("blocks.")}
    assert all(torch.equal(begun.model.state_dict()[key], value) for key, value in rest.items())
    assert begun.model.config.interpolation == "antialias"


def test_all_of_the_teachers_blocks_are_the_teacher(deep):
    begun = begin(StudentSpec(depth=6), deep, side=56, seed=0)
    x = torch.randn(1, 3, 56, 56)
    assert torch.equal(begun.model.eval()(x)[0], deep(x)[0])


def test_registers_that_the_teacher_lacks_are_new(deep):
    begun = begin(StudentSpec(blocks=(0, 5), registers=4), deep, side=56, seed=0)
    assert begun.model.config.registers == 4
    assert begun.model.config.depth == 2
    assert torch.equal(begun.model.cls_token, deep.cls_token)


def test_a_student_of_another_width_is_random_and_learns_its_positions(deep):
    begun = begin(StudentSpec(width=64, depth=2), deep, side=56, seed=0)
    assert (begun.init, begun.positions, begun.model.config.grid) == ("random", "learned", (4, 4))
    assert begun.model.config.heads == 1
    again, other = (begin(StudentSpec(width=64, depth=2), deep, side=56, seed=seed).model for seed in (0, 1))
    assert torch.equal(again.blocks[1].mlp.fc1.weight, begun.model.blocks[1].mlp.fc1.weight)
    assert not torch.equal(other.blocks[1].mlp.fc1.weight, begun.model.blocks[1].mlp.fc1.weight)


def test_a_student_begins_with_a_checkpoint(deep, tmp_path):
    save_checkpoint(random_model(replace(TINY, width=64, heads=1)), tmp_path / "small.safetensors")
    given = str(tmp_path / "small.safetensors")
    begun = begin(StudentSpec(width=64, depth=2, init=given), deep, side=56, seed=0)
    assert torch.equal(begun.model.norm.weight, load_checkpoint(tmp_path / "small.safetensors").tensors["norm.weight"])
    with pytest.raises(RecipeError, match="another architecture"):
        begin(StudentSpec(width=64, depth=3, init=given), deep, side=56, seed=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (StudentSpec(width=64, init="teacher"), "width 64 is not 128"),
        (StudentSpec(width=64, blocks=(0, 1)), "width 64 is not 128"),
        (StudentSpec(blocks=(0, 6)), "no block 6"),
        (StudentSpec(depth=2, blocks=(0, 1, 2)), "contradict"),
        (StudentSpec(blocks=(0, 1), init="random"), "contradict"),
        (StudentSpec(depth=7, init="teacher"), "7 blocks cannot begin"),
        (StudentSpec(width=100, heads=3), "does not split into 3 heads"),
        (StudentSpec(init="nowhere"), "unknown model 'nowhere'"),
    ],
)
def test_shapes_that_do_not_fit(spec, message, deep):
    with pytest.raises(RecipeError, match=message):
        begin(spec, deep, side=56, seed=0)


def test_an_architecture_by_name_keeps_its_name():
    teacher = DinoV2(replace(TINY, width=384, depth=12, heads=6))
    begun = begin(StudentSpec(arch="dinov2_vits14_reg"), teacher, side=56, seed=0)
    assert begun.name == "dinov2_vits14_reg"
    assert begun.model.config.depth == 12


# ---- the loss


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def _smooth_l1(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    d = np.abs(a - b)
    return np.where(d < 1, d * d / 2, d - 0.5).mean(-1)


def test_the_loss_is_its_formula():
    generator = np.random.default_rng(0)
    s_cls, t_cls = generator.standard_normal((2, 3, 16)) * 2
    s_patch, t_patch = generator.standard_normal((2, 3, 5, 16)) * 2
    weights = np.array([0.5, 2.0, 1.0])
    standard = Standard(16).double()
    means, deviations = generator.standard_normal((2, 16)), generator.random((2, 16)) + 0.5
    for kind, mean, deviation in zip(("cls", "patch"), means, deviations, strict=True):
        standard.set(kind, torch.tensor(mean), torch.tensor(deviation**2 + mean**2))
    loss, parts = TokenLoss(0.7, 1.3, 0.9, 0.4)(
        (torch.tensor(s_cls), torch.tensor(s_patch)), (torch.tensor(t_cls), torch.tensor(t_patch)),
        torch.tensor(weights), standard,
    )  # fmt: skip
    np.testing.assert_allclose(parts.patch_cosine.numpy(), _cosine(s_patch, t_patch).mean(-1), rtol=1e-12)
    s_cls, t_cls = ((x - means[0]) / deviations[0] for x in (s_cls, t_cls))
    s_patch, t_patch = ((x - means[1]) / deviations[1] for x in (s_patch, t_patch))
    cls = 0.9 * (1 - _cosine(s_cls, t_cls)) + 0.4 * _smooth_l1(s_cls, t_cls)
    patch = 0.9 * (1 - _cosine(s_patch, t_patch)).mean(-1) + 0.4 * _smooth_l1(s_patch, t_patch).mean(-1)
    np.testing.assert_allclose(loss.item(), ((0.7 * cls + 1.3 * patch) * weights).mean(), rtol=1e-12)
    np.testing.assert_allclose(parts.patch_centred.numpy(), _cosine(s_patch, t_patch).mean(-1), rtol=1e-12)
    np.testing.assert_allclose(parts.cls_smooth_l1.numpy(), _smooth_l1(s_cls, t_cls), rtol=1e-12)


def test_the_loss_of_blocks_is_its_formula():
    generator = np.random.default_rng(0)
    mine, theirs = generator.standard_normal((2, 3, 5, 16))
    energy = generator.random((2, 16)) + 0.1
    energy[1, 3] = 1e-9  # a channel that nothing is added to counts as one of a hundredth of the mean
    loss = BlockLoss(2, 16).double()
    loss.set(1, torch.tensor(energy))
    energy[1, 3] = energy[1].mean() / 100
    error = (mine - theirs) ** 2
    error = np.stack([error[:, 0], error[:, 1:].mean(1)], 1)  # (3, 2, 16)
    wanted = ((error.mean(-1) / energy.mean(-1)) + (error / energy).mean(-1)).mean(-1) / 2
    found = loss(1, torch.tensor(mine), torch.tensor(theirs))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)
    assert loss(0, torch.tensor(mine), torch.tensor(mine)).abs().max() == 0


@torch.no_grad()
def test_blocks_are_given_and_compared_with_the_teachers_streams(deep):
    teacher = Student(deep, 128, TokenLoss(), 0)
    x = torch.randn(2, 3, 56, 56)
    target, streams = teacher.taught(x, {0, 3, 6})
    assert torch.equal(target[0], teacher.tokens(x)[0])
    assert sorted(streams) == [0, 3, 6]
    torch.testing.assert_close(deep.finish(streams[6]), deep(x)[0])
    whole = Student(deep, 128, TokenLoss(), 0, tuple((i, i + 1) for i in range(6)))
    streams = teacher.taught(x, range(7))[1]
    loss, row = whole(x, target, torch.ones(2), streams)  # it is the teacher
    assert loss.item() == pytest.approx(0, abs=1e-9)
    assert row[0] == loss
    assert row[1:].isnan().all()
    first = Student(
        begin(StudentSpec(blocks=(0, 3)), deep, side=56, seed=0).model, 128, TokenLoss(), 0, ((0, 3), (3, 6))
    )
    loss, _ = first(x, target, torch.ones(2), {key: streams[key] for key in (0, 3, 6)})
    found = [first.block_loss(k, deep.blocks[3 * k](streams[3 * k]), streams[3 * k + 3]) for k in (0, 1)]
    torch.testing.assert_close(loss, torch.stack(found).mean())


def test_the_loss_of_equal_tokens_is_zero_and_registers_do_not_count():
    with_registers = random_model(TINY_REG)
    student = Student(with_registers, 128, TokenLoss(), 0)
    x = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        target = student.tokens(x)
        assert target[1].shape == (2, 16, 128)
        assert torch.equal(target[1], with_registers(x)[0][:, 5:])
        loss, row = student(x, target, torch.ones(2))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert row[2:6].tolist() == pytest.approx([1, 1, 1, 1])


def test_other_widths_are_projected():
    student = Student(random_model(replace(TINY, width=64, heads=1)), 128, TokenLoss(), 0)
    cls, patches = student.tokens(torch.randn(2, 3, 56, 56))
    assert (cls.shape, patches.shape) == ((2, 128), (2, 16, 128))
    assert {name for name, _ in student.named_parameters() if not name.startswith("backbone")} == {
        "of_cls.weight", "of_cls.bias", "of_patches.weight", "of_patches.bias"
    }  # fmt: skip
    assert not list(Student(random_model(TINY), 128, TokenLoss(), 0).of_cls.parameters())


# ---- images


def test_a_split_keeps_its_images_apart(folder):
    split = Split.of(folder, RECIPE)
    assert (len(split.training), len(split.held_out)) == (18, 2)
    assert not set(split.training) & set(split.held_out)
    assert Split.of(folder, RECIPE) == split
    assert Split.of(folder, RECIPE.model_copy(update={"seed": 4})).held_out != split.held_out
    next(folder.glob("*.png")).unlink()
    assert Split.of(folder, RECIPE).digest != split.digest


def test_too_few_images_are_refused(tmp_path):
    photographs(tmp_path / "few", 15)
    with pytest.raises(DataError, match="15 images, too few"):
        Split.of(tmp_path / "few", RECIPE)


def test_every_round_shows_each_image_once(folder):
    stream = Stream(Split.of(folder, RECIPE), RECIPE)
    rounds = [[stream.index(p) for p in range(18 * turn, 18 * turn + 18)] for turn in range(3)]
    assert all(sorted(each) == list(range(18)) for each in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


def test_a_batch_depends_on_its_step_alone(folder):
    split = Split.of(folder, RECIPE)
    whole = list(Stream(split, RECIPE).batches(0, 6))
    assert [batch.step for batch in whole] == list(range(6))
    late = list(Stream(split, RECIPE).batches(4, 6))
    for a, b in zip(whole[4:], late, strict=True):
        assert torch.equal(a.pixels, b.pixels)
    halves = [next(Stream(split, RECIPE, rank=rank, processes=2).batches(2, 3)) for rank in (0, 1)]
    assert torch.equal(torch.cat([half.pixels for half in halves]), whole[2].pixels)
    assert whole[0].pixels.shape == (8, 3, 56, 56)


def test_unreadable_images_are_passed_over_and_named(folder):
    split = Split.of(folder, RECIPE)
    (folder / split.training[5]).write_bytes(b"no image")
    stream = Stream(split, RECIPE)
    seen = list(stream.batches(0, 6))
    assert stream.unreadable == {split.training[5].as_posix()}
    assert all(torch.isfinite(batch.pixels).all() for batch in seen)


def test_students_weigh_the_same_images_differently():
    positions = np.arange(4000)
    first, second = (weights_of(positions, student, RECIPE) for student in (0, 1))
    assert abs(first.mean().item() - 1) < 0.05
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert torch.equal(weights_of(positions[7:9], 1, RECIPE), second[7:9])
    equal = RECIPE.model_copy(update={"image_weights": "equal"})
    assert torch.equal(weights_of(positions, 1, equal), torch.ones(4000))


# ---- augmentation


def test_no_augmentation_is_the_centre_square():
    assert crop_box((70, 40), AUGMENTATIONS["none"], np.random.default_rng(1)) == (15, 0, 55, 40)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    found = augmented(picture, AUGMENTATIONS["none"], 28, np.random.default_rng(1))
    wanted = picture.resize((28, 28), Image.Resampling.BICUBIC)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(found.transpose(1, 2, 0) * std + mean, np.asarray(wanted) / 255, atol=1e-6)


@pytest.mark.parametrize("size", [(300, 200), (60, 900)])
def test_crops_are_of_the_area_and_ratio_asked_for(size):
    how = AUGMENTATIONS["dinov2"]
    boxes = np.array([crop_box(size, how, np.random.default_rng(seed)) for seed in range(400)])
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= size[0]).all()
    assert (boxes[:, 3] <= size[1]).all()
    assert ((wide / high > 0.72) & (wide / high < 1.39)).all()
    if size == (300, 200):
        share = wide * high / (size[0] * size[1])
        assert share.min() < 0.36
        assert share.max() > 0.85  # the largest crop of ratio 4:3 has 8/9
        assert share.min() > 0.31


@pytest.mark.parametrize(
    ("change", "same_as"),
    [
        ({"flip": 1.0}, ImageOps.mirror),
        ({"grey": 1.0}, lambda p: p.convert("L").convert("RGB")),
        ({"solarize": 1.0}, lambda p: ImageOps.solarize(p, 128)),
        ({"jitter": 1.0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}, lambda p: p),
    ],
)
def test_a_change_is_what_it_is_called(change, same_as):
    plain = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 256, (28, 28, 3), np.uint8))
    found = augmented(picture, replace(plain, **change), 28, np.random.default_rng(1))
    wanted = augmented(same_as(picture), plain, 28, np.random.default_rng(1))
    # a hue of nothing still goes through HSV, which rounds
    np.testing.assert_allclose(found, wanted, atol=0.25 if "jitter" in change else 0)


def test_blur_smooths_and_jitter_changes_colours():
    plain = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8))
    sharp = augmented(picture, plain, 56, np.random.default_rng(1))
    blurred = augmented(picture, replace(plain, blur=1.0, blur_radius=(8.0, 8.0)), 56, np.random.default_rng(1))
    coloured = augmented(picture, replace(plain, jitter=1.0), 56, np.random.default_rng(1))
    assert np.abs(np.diff(blurred)).mean() < 0.3 * np.abs(np.diff(sharp)).mean()
    assert np.abs(coloured - sharp).mean() > 0.05


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
        Student(deep.bake(56, 56), 128, TokenLoss(), 0).eval(), [group], recipe, World(0, 1, torch.device("cpu")), ""
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


# ---- settings


@pytest.mark.parametrize(
    ("values", "message"),
    [({"image_size": 100}, "nearest is 98"), ({"steps": 0}, "steps"), ({"lr": 1}, "lr"), ({"ema": 1.0}, "ema")],
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
