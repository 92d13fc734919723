"""Registers: outliers where they were put, objects that LOST must find, boxes through the crop, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgekit.artifact import Preprocess
from edgekit.cli import main
from edgekit.errors import DataError
from edgekit.images.boxes import read_boxes
from edgekit.measure.registers.attention import look_inside
from edgekit.measure.registers.discovery import component, correct, iou, localise
from edgekit.measure.registers.norms import measure_norms
from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.vit import VisionTransformer


def scene(
    top: int, left: int, height: int, width: int, *, grid: tuple[int, int] = (16, 16), seed: int = 0
) -> np.ndarray:
    """Patch features (P, 32): one rectangle of its own kind on a background, with noise and a common offset."""
    random = np.random.default_rng(seed)
    background, thing, offset = random.standard_normal((3, 32))
    features = np.tile(background, (*grid, 1))
    features[top : top + height, left : left + width] = thing
    return (features + 10 * offset + 0.1 * random.standard_normal(features.shape)).reshape(-1, 32)


@pytest.mark.parametrize("place", [(2, 3, 5, 5), (0, 0, 4, 6), (9, 8, 6, 4), (12, 12, 3, 3)])
def test_lost_finds_a_square(place: tuple[int, int, int, int]) -> None:
    top, left, height, width = place
    found = localise(scene(*place), (16, 16))
    expected = np.zeros((16, 16), bool)
    expected[top : top + height, left : left + width] = True
    np.testing.assert_array_equal(found.mask, expected)
    assert found.box(14) == (14 * left, 14 * top, 14 * (left + width), 14 * (top + height))
    assert found.mask[found.seed]


def test_lost_keeps_the_component_of_the_seed_only() -> None:
    features = scene(2, 2, 4, 4).reshape(16, 16, 32)
    features[11:14, 11:14] = features[2:5, 2:5]  # a second object of the same kind
    mask = localise(features.reshape(-1, 32), (16, 16)).mask
    first, second = mask[2:6, 2:6].any(), mask[11:14, 11:14].any()
    assert first != second


def test_lost_refuses_another_grid() -> None:
    with pytest.raises(DataError, match="grid"):
        localise(np.zeros((10, 4)), (3, 3))


def test_component_does_not_jump_diagonals() -> None:
    mask = np.eye(4, dtype=bool)
    mask[0, 1] = True
    assert component(mask, (0, 0)).sum() == 3  # (0, 0), (0, 1) and, below that, (1, 1)


def test_boxes_overlap() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert correct((0, 0, 10, 10), ((20, 20, 30, 30), (0, 0, 10, 8)))
    assert not correct((0, 0, 10, 10), ((0, 0, 10, 5),))


def with_outliers(model: VisionTransformer, places: list[int], gain: float) -> VisionTransformer:
    """Baked for 70 x 70 pixels, with a position embedding that adds `gain` to all channels of some patches."""
    changed = model.bake(70, 70)
    with torch.no_grad():
        changed.pos_embed[0, [1 + place for place in places]] += gain
    return changed


def test_outliers_are_where_they_were_put(tiny_model: VisionTransformer) -> None:
    pixels = np.random.default_rng(0).standard_normal((3, 3, 70, 70)).astype(np.float32)
    inside = look_inside(with_outliers(tiny_model, [4, 17], 40.0), pixels, "abc")
    report = measure_norms(inside.norms, inside.attention)
    assert report.outlier_share == pytest.approx(2 / 25)
    assert report.outlier_images == 1
    assert set(np.argsort(inside.norms.mean(axis=0))[-2:]) == {4, 17}
    expected = inside.attention.mean(axis=1)
    share = (expected[:, [4, 17]].sum(axis=1) / expected.sum(axis=1)).mean()
    assert report.attention_on_outliers == pytest.approx(share, rel=1e-5)


def test_a_model_without_outliers_has_none_and_a_cutoff_is_kept(tiny_reg_model: VisionTransformer) -> None:
    pixels = np.random.default_rng(0).standard_normal((3, 3, 70, 70)).astype(np.float32)
    inside = look_inside(tiny_reg_model, pixels, "abc")
    assert measure_norms(inside.norms, inside.attention).outlier_share == 0
    halved = measure_norms(inside.norms, inside.attention, cutoff=float(np.median(inside.norms)))
    assert halved.outlier_share == pytest.approx(0.5, abs=0.02)


def test_boxes_go_through_resize_and_crop(tmp_path: Path) -> None:
    Image.new("RGB", (160, 80)).save(tmp_path / "wide.png")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"wide.png": [[40, 0, 120, 80], [0, 0, 10, 10], [70, 30, 90, 50]]}))
    transform = Preprocess.for_size(70, 70)  # shorter edge 80, crop of 70 from (45, 5)
    found = read_boxes(boxes, tmp_path, ["wide.png"], transform)["wide.png"]
    assert found == ((0, 0, 70, 70), (25, 25, 45, 45))
    with pytest.raises(DataError, match="names none"):
        read_boxes(boxes, tmp_path, ["other.png"], transform)
    boxes.write_text('{"wide.png": [1]}')
    with pytest.raises(DataError, match="holds no boxes"):
        read_boxes(boxes, tmp_path, ["wide.png"], transform)


def test_command_compares_a_constructed_pair(
    tiny_model: VisionTransformer, tiny_reg_model: VisionTransformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("altair")
    save_checkpoint(with_outliers(tiny_model, [4], 40.0), tmp_path / "a.safetensors")
    save_checkpoint(tiny_reg_model, tmp_path / "b.safetensors")
    photos, random = tmp_path / "photos", np.random.default_rng(0)
    photos.mkdir()
    for i in range(3):
        Image.fromarray(random.integers(0, 256, (80, 80, 3), np.uint8)).save(photos / f"{i}.png")
    (tmp_path / "boxes.json").write_text(json.dumps({"0.png": [[0, 0, 80, 80]]}))
    words = ["registers", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"), "--images", str(photos)]
    words += ["--boxes", str(tmp_path / "boxes.json"), "--image-size", "70", "--rounds", "0"]
    words += ["--out", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["a"]["norms"]["outlier_share"] == pytest.approx(1 / 25)
    assert report["b"]["norms"]["outlier_share"] == 0
    assert (report["a"]["tokens"], report["b"]["tokens"]) == (26, 30)
    assert report["annotated"] == 1
    assert report["a"]["corloc"] in (0, 1)
    assert report["speedup"] is None
    assert json.loads((tmp_path / "out" / "registers.json").read_text()) == report
    page = (tmp_path / "out" / "registers.html").read_text()
    assert "a.safetensors" in page
    assert "http://www.w3.org" in page or "http" not in page
