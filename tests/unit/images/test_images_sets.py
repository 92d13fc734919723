"""Folders and the demo photographs as image sets: order, draws, labels, what is skipped, what is the same twice."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.artifact import Preprocess
from edgekit.errors import DataError
from edgekit.images import ImageFolder, demo, load_set
from edgekit.images.demo import PHOTOGRAPHS, demo_crops

TRANSFORM = Preprocess.for_size(28, 28)


def save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), (value, 0, 255 - value)).save(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "photos"
    for i in range(12):
        save(root / ("cats" if i % 2 else "dogs/young") / f"{i:02d}.png", 20 * i)
    return root


def red(images) -> list[int]:
    """Which images these are, by the value they were saved with."""
    values = images.pixel_values[:, 0, 5, 5] * TRANSFORM.std[0] + TRANSFORM.mean[0]
    return [round(float(value) * 255) for value in values]


def test_nested_folders_are_listed_in_order_with_their_top_folder_as_label(folder):
    (folder / "cats" / "notes.txt").write_text("no image")
    save(folder / ".thumbnails" / "x.png", 0)
    listing = ImageFolder.scan(folder)
    names = [path.as_posix() for path in listing.paths]
    assert names == sorted(names)
    assert names[:2] == ["cats/01.png", "cats/03.png"]
    assert names[-1] == "dogs/young/10.png"
    assert len(names) == 12
    assert listing.labels == ("cats",) * 6 + ("dogs",) * 6
    assert listing.classes == ("cats", "dogs")


def test_folders_are_labels_only_when_every_image_lies_in_one_of_several(folder, tmp_path):
    save(folder / "loose.png", 0)
    assert ImageFolder.scan(folder).labels is None
    save(tmp_path / "one" / "only" / "a.png", 0)
    assert ImageFolder.scan(tmp_path / "one").labels is None


def test_all_images_come_in_order_and_a_draw_is_seeded(folder):
    everything = load_set(folder, TRANSFORM, samples=None)
    assert everything.paths == tuple(path.as_posix() for path in ImageFolder.scan(folder).paths)
    assert red(everything) == [20, 60, 100, 140, 180, 220, 0, 40, 80, 120, 160, 200]
    assert len(load_set(folder, TRANSFORM, samples=100)) == 12
    few, again, other = (load_set(folder, TRANSFORM, samples=5, seed=seed) for seed in (3, 3, 4))
    assert few.paths == again.paths == tuple(sorted(few.paths))
    assert few.digest == again.digest
    assert other.paths != few.paths
    assert few.labels == tuple(path.split("/")[0] for path in few.paths)
    assert few.pixel_values.shape == (5, 3, 28, 28)
    assert [len(batch) for batch in few.batches(2)] == [2, 2, 1]


def test_corrupt_images_are_skipped_by_name_and_replaced(folder):
    (folder / "cats" / "01.png").write_bytes(b"broken")
    (folder / "dogs" / "young" / "02.png").write_bytes((folder / "dogs" / "young" / "02.png").read_bytes()[:60])
    everything = load_set(folder, TRANSFORM, samples=None)
    assert len(everything) == 10
    assert [skip.path for skip in everything.skipped] == ["cats/01.png", "dogs/young/02.png"]
    assert all(skip.reason for skip in everything.skipped)
    assert red(everything) == [60, 100, 140, 180, 220, 0, 80, 120, 160, 200]
    for seed in range(5):
        assert len(load_set(folder, TRANSFORM, samples=10, seed=seed)) == 10  # as many as were asked for


def test_a_folder_of_broken_images_is_an_error_with_reasons(tmp_path):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(DataError, match="none of the 2 images") as caught:
        load_set(tmp_path, TRANSFORM, samples=8)
    assert "a.png: not a PNG, JPEG or WebP image" in caught.value.why


def test_folders_that_are_none(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load_set(tmp_path / "absent", TRANSFORM, samples=8)
    with pytest.raises(DataError, match="holds no images"):
        load_set(tmp_path, TRANSFORM, samples=8)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="a file"):
        load_set(tmp_path / "file", TRANSFORM, samples=8)
    with pytest.raises(DataError, match="0 images were asked for"):
        load_set(tmp_path, TRANSFORM, samples=0)


def test_two_draws_from_one_folder_can_be_kept_apart(folder, tmp_path):
    calibration = load_set(folder, TRANSFORM, samples=8)
    evaluation = load_set(folder, TRANSFORM, samples=8, disjoint_from=calibration)
    assert len(evaluation) == 4
    assert not set(calibration.paths) & set(evaluation.paths)
    with pytest.raises(DataError, match="in the other set already"):
        load_set(folder, TRANSFORM, samples=1, disjoint_from=load_set(folder, TRANSFORM, samples=None))
    save(tmp_path / "elsewhere" / "cats" / "01.png", 0)
    assert len(load_set(tmp_path / "elsewhere", TRANSFORM, samples=8, disjoint_from=calibration)) == 1


def test_the_digest_tells_names_pixels_and_transform_apart(folder):
    digests = {
        load_set(folder, transform, samples=None).digest for transform in (TRANSFORM, Preprocess.for_size(28, 42))
    }
    save(folder / "cats" / "01.png", 21)
    digests.add(load_set(folder, TRANSFORM, samples=None).digest)
    (folder / "cats" / "01.png").rename(folder / "cats" / "02.png")
    digests.add(load_set(folder, TRANSFORM, samples=None).digest)
    assert len(digests) == 4


def test_progress_is_told_of_every_image(folder):
    said: list[tuple[int, int]] = []
    load_set(folder, TRANSFORM, samples=5, progress=lambda done, total: said.append((done, total)))
    assert said == [(i, 5) for i in range(1, 6)]
    said.clear()
    load_set("demo", TRANSFORM, samples=3, progress=lambda done, total: said.append((done, total)))
    assert said == [(i, 3) for i in range(1, 4)]


def test_the_demo_photographs_give_two_sets_with_no_photograph_in_both():
    calibration = load_set("demo", TRANSFORM, samples=64)
    evaluation = load_set("demo", TRANSFORM, samples=32, split="evaluation")
    assert (len(calibration), len(evaluation)) == (64, 32)
    photographs = [{path.split("#")[0] for path in images.paths} for images in (calibration, evaluation)]
    assert not photographs[0] & photographs[1]
    assert len(photographs[0]) >= 8
    assert len(photographs[1]) >= 6
    assert len(set(calibration.paths)) == 64
    flat = np.concatenate((calibration.pixel_values, evaluation.pixel_values)).reshape(96, -1)
    similar = np.corrcoef(flat) - np.eye(96)
    assert similar.max() < 0.995  # no crop twice


def test_the_demo_set_is_the_same_every_time_and_another_for_another_seed():
    first, again = (load_set("demo", TRANSFORM, samples=20) for _ in range(2))
    assert first.digest == again.digest
    assert load_set("demo", TRANSFORM, samples=20, seed=1).digest != first.digest
    longer = load_set("demo", TRANSFORM, samples=40)
    assert longer.paths[:20] == first.paths  # more samples add crops, they change none
    assert np.array_equal(longer.pixel_values[:20], first.pixel_values)


def test_demo_crops_differ_in_scale_and_shape_and_show_enough():
    crops = list(demo_crops("calibration", 64))
    whole = {photograph.name: photograph.open() for photograph in PHOTOGRAPHS}
    shares = [min(crop.size) / min(whole[name.split("#")[0]].size) for name, crop in crops]
    aspects = {round(crop.width / crop.height, 1) for _, crop in crops}
    assert min(shares) < 0.5
    assert max(shares) == 1.0
    assert min(min(crop.size) for _, crop in crops) >= 140
    assert {0.8, 1.0, 1.3} <= aspects


def test_a_photograph_that_is_not_the_pinned_one_is_refused(monkeypatch):
    forged = replace(PHOTOGRAPHS[0], sha256="0" * 64)
    with pytest.raises(DataError, match=r"astronaut\.png is not the demo photograph"):
        forged.open()
    absent = replace(PHOTOGRAPHS[0], package="no_such_package")
    monkeypatch.setitem(demo.DISTRIBUTIONS, "no_such_package", "no-such-package")
    with pytest.raises(DataError, match="not installed") as caught:
        absent.open()
    assert "--calib" in caught.value.fix


def test_more_crops_than_photographs_can_give_are_refused():
    with pytest.raises(DataError, match="257 demo crops"):
        load_set("demo", TRANSFORM, samples=257)


def test_images_need_neither_torch_nor_the_packages_that_ship_them():
    code = (
        "import sys; from edgekit.artifact import Preprocess; from edgekit.images import load_set;"
        "load_set('demo', Preprocess.for_size(28, 28), samples=2);"
        "print({'torch', 'skimage', 'sklearn', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_image_of_a_folder_is_a_photograph_and_crops_share_theirs(folder):
    images = load_set(folder, TRANSFORM, samples=None)
    assert images.groups == images.paths
    crops = load_set("demo", TRANSFORM, samples=12, split="evaluation")
    assert set(crops.groups) == {photo.name for photo in PHOTOGRAPHS if photo.split == "evaluation"}
    assert all(path.startswith(f"{group}#") for path, group in zip(crops.paths, crops.groups, strict=True))
