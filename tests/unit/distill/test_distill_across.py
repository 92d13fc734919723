"""Students of another architecture than their teacher's: other patches, rotary positions for learned ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgekit.distill.beginning import balanced_basis, begin, order_for_rotation, resampled_kernel
from edgekit.distill.images import Split, Stream, held_out_pixels
from edgekit.distill.loss import TokenLoss
from edgekit.distill.recipe import DistillRecipe
from edgekit.distill.student import Student, StudentSpec
from edgekit.models.checkpoint import load_checkpoint, save_checkpoint
from edgekit.models.rope import periods_of, slowest_first
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.pipeline.watch import Silent
from edgekit.workflows.distill import Running, distil_folder
from tests.support.models import TINY, TINY_ROPE, photographs

DINOV3 = "patch=16,positions=rope,registers=4"


@pytest.fixture(scope="module")
def teacher() -> VisionTransformer:
    return random_model(replace(TINY, depth=3, interpolation="size"))


@torch.no_grad()
def test_an_enlarged_patch_gives_the_same_token() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, patch = (torch.randn(*shape, generator=generator) for shape in ((8, 3, 14, 14), (2, 3, 14, 14)))
    kernel = resampled_kernel(weight, 16)
    assert kernel.shape == (8, 3, 16, 16)
    enlarged = F.interpolate(patch, size=(16, 16), mode="bicubic")
    torch.testing.assert_close(F.conv2d(enlarged, kernel), F.conv2d(patch, weight), atol=1e-4, rtol=1e-4)
    assert resampled_kernel(weight, 14) is weight


def test_a_smaller_kernel_is_that_of_least_squares() -> None:
    weight = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pictures = torch.eye(256).reshape(-1, 1, 16, 16)
    resize = F.interpolate(pictures, size=(14, 14), mode="bicubic", antialias=True).flatten(1)
    kernel = resampled_kernel(weight, 14).flatten(2)
    residual = kernel @ resize.T - weight.flatten(2)
    assert float((residual @ resize).abs().max()) < 1e-3  # orthogonal to all that a kernel can do


def test_channels_turn_slowest_first() -> None:
    periods = np.tile(periods_of(100, 64, "float32"), 4)[slowest_first(64)]
    assert sorted(slowest_first(64)) == list(range(64))
    assert (np.diff(periods) <= 0).all()


def test_balanced_maps_undo_each_other_and_weigh_both_sides_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(64, 129, generator=generator, dtype=torch.float64) for _ in range(2))
    to_query, to_key = balanced_basis(query, key)
    torch.testing.assert_close(to_query.T @ to_key, torch.eye(64, dtype=torch.float64), atol=1e-6, rtol=0)
    moments = [(m @ w) @ (m @ w).T for m, w in ((to_query, query), (to_key, key))]
    scale = moments[0].diagonal().max()
    for each in moments:
        torch.testing.assert_close(each, torch.diag(each.diagonal()), atol=float(scale) * 1e-5, rtol=0)
        assert (each.diagonal().diff() <= 1e-5 * scale).all()
    torch.testing.assert_close(moments[0], moments[1], atol=float(scale) * 1e-5, rtol=0)
    key[5] = 0  # a dead channel
    to_query, to_key = balanced_basis(query, key)
    torch.testing.assert_close(to_query.T @ to_key, torch.eye(64, dtype=torch.float64), atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_order_of_channels_leaves_unturned_scores_as_they_are(teacher: VisionTransformer) -> None:
    block = random_model(replace(TINY, depth=1)).blocks[0]
    tokens = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(0))
    before = block(tokens)
    order_for_rotation(block.attn, block.norm1)
    torch.testing.assert_close(block(tokens), before, atol=1e-4, rtol=1e-4)
    _, key, _ = block.attn.qkv.bias.chunk(3)
    assert not key.any()
    query = block.attn.split_heads(block.attn.qkv(block.norm1(torch.randn(8, 500, 128))))[0]  # (B, H, N, 64)
    sizes = query.square().mean((0, 2))[:, slowest_first(64)]
    assert (sizes[:, :8].mean(1) > 2 * sizes[:, -8:].mean(1)).all()


def test_a_dinov3_begins_with_a_dinov2(teacher: VisionTransformer) -> None:
    begun = begin(StudentSpec.parse(DINOV3), teacher, side=56, seed=0)
    config = begun.model.config
    assert (config.patch, config.positions, config.registers, config.grid) == (16, "rope", 4, (4, 4))
    assert (begun.name, begun.side, begun.segments) == ("dinov3_128x3", 64, ())
    torch.testing.assert_close(begun.model.cls_token, teacher.cls_token + teacher.pos_embed[:, :1])
    torch.testing.assert_close(
        begun.model.patch_embed.proj.bias, teacher.patch_embed.proj.bias + teacher.pos_embed[0, 1:].mean(0)
    )
    for mine, theirs in zip(begun.model.blocks, teacher.blocks, strict=True):
        assert torch.equal(mine.mlp.fc1.weight, theirs.mlp.fc1.weight)
        assert torch.equal(mine.attn.qkv.weight[256:], theirs.attn.qkv.weight[256:])  # values


def test_a_dinov2_that_begins_with_a_dinov3_learns_its_positions() -> None:
    begun = begin(StudentSpec.parse("patch=14,positions=learned"), random_model(TINY_ROPE), side=64, seed=0)
    assert (begun.positions, begun.side, begun.segments) == ("learned", 56, ())
    assert begun.model.config.grid == (4, 4)
    same = begin(StudentSpec(depth=1), random_model(TINY_ROPE), side=64, seed=0)
    assert same.segments == ((0, 2),)
    assert torch.equal(same.model.blocks[0].attn.qkv.weight, random_model(TINY_ROPE).blocks[0].attn.qkv.weight)


def test_another_patch_alone_keeps_positions_and_blocks_that_learn_one_by_one(teacher: VisionTransformer) -> None:
    begun = begin(StudentSpec(patch=16), teacher, side=56, seed=0)
    assert (begun.positions, begun.side) == ("frozen", 64)
    assert begun.segments == ((0, 1), (1, 2), (2, 3))
    assert torch.equal(begun.model.pos_embed, teacher.pos_embed)


@torch.no_grad()
def test_teacher_and_student_see_the_same_crop_at_their_own_size(teacher: VisionTransformer, tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 20)
    recipe = DistillRecipe(image_size=56, steps=1, batch=4, augment="light", seed=3)
    split = Split.of(tmp_path / "photos", recipe)
    small, large = (next(Stream(split, recipe, side=side).batches(0, 1)).pixels for side in (0, 64))
    assert (small.shape, large.shape) == ((4, 3, 56, 56), (4, 3, 64, 64))
    shrunk = F.interpolate(large, size=(56, 56), mode="bicubic", antialias=True)
    assert float((shrunk - small).abs().mean()) < 0.05 * float(small.abs().mean())
    begun = begin(StudentSpec.parse(DINOV3), teacher, side=56, seed=0)
    student = Student(begun.model.eval(), 128, TokenLoss(), 0, side=begun.side)
    guide = Student(teacher.bake(56, 56), 128, TokenLoss(), 0, side=56)
    assert guide.tokens(large)[1].shape == student.tokens(large)[1].shape == (4, 16, 128)
    assert torch.equal(guide.tokens(large)[0], guide.backbone(shrunk)[1])


def test_a_dinov3_learns_from_a_dinov2(tmp_path: Path, teacher: VisionTransformer) -> None:
    photographs(tmp_path / "photos", 20)
    save_checkpoint(teacher, tmp_path / "teacher.safetensors", licence="MIT")
    recipe = DistillRecipe(image_size=56, steps=16, batch=8, rate=1e-4, copies=1, seed=1, augment="none")
    outcome = distil_folder(
        str(tmp_path / "teacher.safetensors"),
        [DINOV3],
        tmp_path / "photos",
        tmp_path / "out",
        recipe,
        Running("cpu", "off", threads=1),
        Silent(),
    )
    assert outcome is not None
    (row,) = outcome.distilled.graduates
    assert row.scores[row.kind].loss < row.scores["start"].loss
    learned = load_checkpoint(tmp_path / "out" / row.file)
    assert (learned.config.positions, learned.config.patch, learned.licence) == ("rope", 16, "MIT")
    begun = begin(StudentSpec.parse(DINOV3), teacher, side=56, seed=1).model.state_dict()
    bias = "blocks.0.attn.qkv.bias"
    assert not learned.tensors[bias][128:256].any()  # keys of rotary models have none
    assert not torch.equal(learned.tensors[bias][:128], begun[bias][:128])
    held_out, _ = held_out_pixels(Split.of(tmp_path / "photos", recipe), 64)
    assert held_out.shape[-1] == 64
