"""Students and their first weights, and the loss they descend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.distill.beginning import begin
from edgekit.distill.loss import BlockLoss, Standard, TokenLoss
from edgekit.distill.student import Student, StudentSpec
from edgekit.errors import RecipeError
from edgekit.models.checkpoint import load_checkpoint, save_checkpoint
from edgekit.models.vit import VisionTransformer, random_model
from tests.support.models import TINY, TINY_REG


@pytest.fixture(scope="module")
def deep() -> VisionTransformer:
    return random_model(replace(TINY, depth=6, interpolation="size"))


# ---- students


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("dinov2_vits14_reg", {"arch": "dinov2_vits14_reg"}),
        ("facebook/dinov2-small", {"arch": "facebook/dinov2-small"}),
        ("depth=6", {"depth": 6}),
        (
            " depth=3, blocks=0+2+4 , registers=4,init=teacher",
            {"depth": 3, "blocks": (0, 2, 4), "registers": 4, "init": "teacher"},
        ),
    ],
)
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


@pytest.mark.parametrize("words", ["depth=3", "depth=3,init=random"])
def test_crops_off_the_grid_of_patches_are_refused_before_the_first_step(words, deep):
    with pytest.raises(RecipeError, match="100x100 is not a positive multiple of 14") as error:
        begin(StudentSpec.parse(words), deep, side=100, seed=0)
    assert error.value.fix == "--image-size 98"


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
    teacher = VisionTransformer(replace(TINY, width=384, depth=12, heads=6))
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
        (torch.tensor(s_cls), torch.tensor(s_patch)),
        (torch.tensor(t_cls), torch.tensor(t_patch)),
        torch.tensor(weights),
        standard,
    )
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
        "of_cls.weight",
        "of_cls.bias",
        "of_patches.weight",
        "of_patches.bias",
    }
    assert not list(Student(random_model(TINY), 128, TokenLoss(), 0).of_cls.parameters())
