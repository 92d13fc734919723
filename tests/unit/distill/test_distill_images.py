"""The photographs a distillation learns from: how they are split, ordered, weighed, cropped and changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from edgekit.distill.augment import AUGMENTATIONS, Augmentation, augmented, crop_box
from edgekit.distill.images import Split, Stream, weights_of
from edgekit.distill.recipe import DistillRecipe
from edgekit.errors import DataError
from tests.support.models import photographs

RECIPE = DistillRecipe(image_size=56, steps=10, batch=8, seed=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photographs(tmp_path / "photos", 20)
    return tmp_path / "photos"


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
