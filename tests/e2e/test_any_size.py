"""A build of files for images of any size: one plan, drift at several sizes, and pictures of any shape at the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from edgekit.backends import load
from edgekit.bundle.check import check_bundle
from edgekit.bundle.write import write_bundle
from edgekit.errors import DataError
from edgekit.manifest import Manifest
from edgekit.measure.golden import read_golden_sizes
from edgekit.metrics import cosine
from edgekit.models import zoo
from edgekit.pipeline import BuildResult, build
from edgekit.plan.quant import QuantPlan
from edgekit.recipe import Recipe

SIDES = (42, 126)
MAIN = (70, 70)


@pytest.fixture(scope="module")
def any_size(recipe: Recipe) -> Recipe:
    """Baked at 70 pixels, and for any size, of one plan."""
    return Recipe.make(recipe.model_dump() | {"image_size": [MAIN, f"dynamic:{SIDES[0]}-{SIDES[1]}"]})


@pytest.fixture(scope="module")
def folder(any_size: Recipe, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return build(any_size, tmp_path_factory.mktemp("any") / "out", measure="drift")


def test_files_for_any_size_stand_beside_baked_ones(folder: BuildResult) -> None:
    rows = {row.name: row for row in folder.manifest.artifacts}
    assert {name: row.status for name, row in rows.items()} == dict.fromkeys(
        ("onnx/fp32", "onnx/w8a8", "onnx/fp32_any_size", "onnx/w8a8_any_size"), "ok"
    )
    assert rows["onnx/w8a8_any_size"].path == "onnx/model_w8a8_any_size.onnx"
    assert rows["onnx/w8a8_any_size"].inputs[0].shape == ("batch", 3, "height", "width")
    assert rows["onnx/w8a8"].inputs[0].shape == ("batch", 3, *MAIN)


def test_one_plan_serves_both_and_is_calibrated_over_several_sizes(folder: BuildResult) -> None:
    assert [path.name for path in (folder.out / "plan").glob("*.safetensors")] == ["int8.safetensors"]
    plan = QuantPlan.load(folder.out / "plan" / "int8.safetensors")
    sizes = plan.provenance["sizes"]
    assert sizes[0] == [*MAIN, 4]
    assert len(sizes) > 3
    assert any(height != width for height, width, _ in sizes)
    baked, free = (row.drift for row in folder.manifest.artifacts if row.precision == "w8a8")
    assert baked["sqnr_db"] == pytest.approx(free["sqnr_db"], abs=0.5)


def test_the_row_tells_drift_at_the_smallest_the_largest_and_a_size_that_is_not_square(folder: BuildResult) -> None:
    rows = {row.name: row for row in folder.manifest.artifacts}
    for name, least in (("onnx/fp32_any_size", 90), ("onnx/w8a8_any_size", 15)):
        sizes = rows[name].drift["sizes"]
        assert list(sizes) == ["42x42", "70x112", "126x126"]
        assert all(each["sqnr_db"] > least for each in sizes.values())
    assert "126x126" in (folder.out / "report.html").read_text()


def test_a_second_run_makes_nothing(folder: BuildResult, any_size: Recipe) -> None:
    assert build(any_size, folder.out, measure="drift").made == ()


def test_the_loader_takes_whole_pictures_and_tells_their_grid(folder: BuildResult, any_size: Recipe) -> None:
    model = load(folder.out / "onnx" / "model_any_size.onnx")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 150, 3), np.uint8))
    shortest = model(picture)  # 70 x 105 pixels, rounded to patches
    assert shortest.grid == (5, 8)
    assert shortest["last_hidden_state"].shape == (1, 1 + 40, 128)
    assert shortest.patches.shape == (1, 5, 8, 128)
    assert model(picture, side=84).grid == (6, 9)
    kept = model(picture, resize="keep-aspect")  # 100 x 150 is beyond the range
    assert kept.grid == (6, 9)
    exact = model(picture.resize((112, 56)), resize="exact")
    assert exact.grid == (4, 8)
    pixels = model_pixels(picture.resize((112, 56)))
    with torch.no_grad():
        expected = zoo.load(any_size.model).model(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(exact["last_hidden_state"], expected, atol=1e-4)
    np.testing.assert_allclose(model(pixels)["last_hidden_state"], expected, atol=1e-4)


def model_pixels(image: Image.Image) -> np.ndarray:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = (np.asarray(image, np.float64) / 255 - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None].astype(np.float32))


def test_what_does_not_fit_names_the_nearest_size(folder: BuildResult) -> None:
    model = load(folder.out / "onnx" / "model_any_size.onnx")
    picture = Image.new("RGB", (100, 75))
    with pytest.raises(DataError, match="70x98"):
        model(picture, resize="exact")
    with pytest.raises(DataError, match="42x126"):
        model(Image.new("RGB", (1000, 75)), resize="keep-aspect")
    with pytest.raises(DataError, match="nearest size is 126x126"):
        model(np.zeros((1, 3, 140, 140), np.float32))
    for wrong in (0, -14, "224", 0.5, True):
        with pytest.raises(DataError, match="side"):
            model(picture, side=wrong)
    with pytest.raises(DataError, match="known are"):
        model(picture, resize="stretch")
    with pytest.raises(DataError, match="picture in"):
        model([picture, Image.new("RGB", (75, 100))])
    baked = load(folder.out / "onnx" / "model.onnx")
    with pytest.raises(DataError, match="70x70"):
        baked(picture, resize="shortest")
    assert baked(picture).grid == (5, 5)


def test_a_build_of_files_for_any_size_alone_has_the_plain_names(any_size: Recipe, tmp_path: Path) -> None:
    values = any_size.model_dump() | {"image_size": [f"dynamic:{SIDES[0]}-{SIDES[1]}"], "precisions": ["fp32"]}
    only = Recipe.make(values | {"formats": ["onnx", "tflite"]})
    assert only.main_size == (126, 126)  # 224 is beyond the range
    result = build(only, tmp_path / "out", measure="none")
    rows = {row.name: row for row in result.manifest.artifacts}
    assert rows["onnx/fp32"].path == "onnx/model.onnx"
    assert rows["tflite/fp32"].status == "not here"
    assert "one size" in rows["tflite/fp32"].reason
    model = load(result.out)
    a, b = (model(np.zeros((1, 3, *size), np.float32))["pooler_output"] for size in ((42, 70), (84, 42)))
    assert cosine(a, b).shape == (1,)
    assert Manifest.read(result.out).recipe["any_size"] == list(SIDES)


def test_a_bundle_holds_golden_images_of_three_shapes(any_size: Recipe, tmp_path: Path) -> None:
    values = any_size.model_dump() | {"image_size": [f"dynamic:{SIDES[0]}-{SIDES[1]}"]}
    out = build(Recipe.make(values), tmp_path / "out", measure="none").out
    bundle = write_bundle(out, tmp_path / "bundle").path
    shapes = read_golden_sizes(bundle)
    assert set(shapes) == {(42, 42), (84, 126), (126, 84)}
    assert [check.outcome for check in check_bundle(bundle)] == ["passed", "passed"]
    told = json.loads((bundle / "preprocessor_config.json").read_text())
    assert (told["sides"], told["patch_size"]) == ([42, 126], 14)
    pixels, pooled = shapes[84, 126]
    save_file(
        {f"84x126.{name}": array for name, array in (("pixel_values", pixels), ("pooler_output", -pooled))},
        bundle / "golden" / "sizes.safetensors",
    )
    assert [check.outcome for check in check_bundle(bundle)] == ["failed", "failed"]
