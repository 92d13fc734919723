"""`edgekit depth`, and a build of Depth Anything: any shape of photograph, the published size, report and bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.artifact import Preprocess
from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.bundle import write_bundle
from edgekit.cli import main
from edgekit.errors import DataError, RecipeError
from edgekit.images.preprocess import preprocess
from edgekit.manifest import Manifest
from edgekit.models.vit import VisionTransformer
from edgekit.pipeline import BuildResult
from edgekit.report.content import BuildReport
from edgekit.workflows.depth import _covered, map_depth
from tests.support.depth_anything import depth_model
from tests.support.plans import export_source

pytest.importorskip("onnxruntime")
SQUARE, WIDE = (70, 70), (70, 98)
PUBLISHED = {"size": {"height": 70, "width": 70}, "keep_aspect_ratio": True, "ensure_multiple_of": 14, "resample": 3}


def checkpoint(folder: Path, **given: object) -> Path:
    """A folder as published, of a tiny model."""
    depth_model(**given).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "DPTImageProcessor", **PUBLISHED})
    )
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    return folder


def built(folder: Path, **given: object) -> BuildResult:
    model = checkpoint(folder / "model", **given)
    return edgekit.build(
        model,
        folder / "out",
        formats="onnx",
        precisions="fp32,w8a8",
        fused=False,
        image_size=[SQUARE, WIDE],
        calibration={"source": "demo", "samples": 8},
        evaluation_samples=4,
        measure="drift",
    )


@pytest.fixture(scope="module")
def relative(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return built(tmp_path_factory.mktemp("relative"))


@pytest.fixture(scope="module")
def metric(tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    return built(tmp_path_factory.mktemp("metric"), depth_estimation_type="metric", max_depth=20)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Seven wide, five high."""
    return _photo(tmp_path / "photo.png", (140, 100))


def _photo(path: Path, size: tuple[int, int]) -> Path:
    small = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def test_the_published_size_is_in_manifest_and_file(relative: BuildResult) -> None:
    for row in Manifest.read(relative.out).artifacts:
        assert row.preprocess is not None
        assert row.preprocess.whole_image is not None
        assert (row.preprocess.whole_image.size, row.preprocess.whole_image.rule) == (SQUARE, "minimal")
        assert {spec.name: spec.task for spec in row.outputs}["predicted_depth"] == "relative depth"
    assert OnnxBackend().read(relative.out / "onnx" / "model.onnx").preprocess.whole_image is not None
    assert any("resized whole" in line and "70x98" in line for line in relative.manifest.model["remarks"])


@pytest.mark.parametrize(
    ("size", "seen"),
    [((140, 100), WIDE), ((100, 100), SQUARE), ((90, 100), SQUARE), ((99, 71), WIDE), ((300, 20), WIDE)],
    ids=str,
)
def test_a_photograph_of_any_shape_gets_a_map_of_its_own_size(
    relative: BuildResult, size, seen, tmp_path: Path
) -> None:
    found = map_depth(relative.out, _photo(tmp_path / "photo.png", size), [tmp_path / "map.png", tmp_path / "map.npz"])
    assert found.values.shape == (size[1], size[0])
    assert found.box == (0, 0, *size)
    assert found.input_size == seen
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.size == size
    with np.load(tmp_path / "map.npz") as values:
        assert np.array_equal(values["depth"], found.values)
        assert str(values["unit"]) == "inverse depth without unit"


def test_the_map_is_the_files_own_resized(relative: BuildResult, photo: Path, tmp_path: Path) -> None:
    file = relative.out / "onnx" / "model.onnx"
    found = map_depth(file, photo, [tmp_path / "map.npy"])
    model = edgekit.load(file)
    output = model(preprocess(photo, model.artifact.preprocess)[None])["predicted_depth"][0]
    expected = np.asarray(Image.fromarray(output).resize((140, 100), Image.Resampling.BILINEAR))
    assert np.array_equal(np.load(tmp_path / "map.npy"), expected)
    assert found.published == WIDE
    assert found.input_size == SQUARE


def test_near_places_are_bright(metric: BuildResult, relative: BuildResult, photo: Path, tmp_path: Path) -> None:
    for result, nearest in ((relative, np.argmax), (metric, np.argmin)):
        found = map_depth(result.out, photo, [tmp_path / "map.png"])
        picture = np.asarray(Image.open(tmp_path / "map.png")).reshape(-1, 3)
        assert tuple(picture[nearest(found.values)]) == (253, 231, 37)


def test_the_command_names_unit_file_and_stretching(
    metric: BuildResult, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["depth", str(metric.out), str(photo), "--out", str(tmp_path / "a.png")]) == 0
    shown = capsys.readouterr().out
    for words in ("metres", "100 x 140 pixels", "seen at 70x98, as published", "onnx/"):
        assert words in shown
    file = metric.out / "onnx" / "model.onnx"
    assert main(["depth", str(file), str(photo), "--out", str(tmp_path / "a.npy")]) == 0
    assert "--image-size 70x98" in capsys.readouterr().out
    assert main(["depth", str(metric.out), str(photo), "--out", str(tmp_path / "a.png"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["unit"], said["published_size"], said["image_size"]) == ("metres", [*WIDE], [*WIDE])
    assert 0 < said["range"][0] < said["range"][1] < 20


def test_what_cannot_be_mapped_says_why_and_leaves_nothing(
    relative: BuildResult, tiny_model: VisionTransformer, photo: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=r"cannot write a map to .*map\.tiff"):
        map_depth(relative.out, photo, [tmp_path / "map.png", tmp_path / "map.tiff"])
    with pytest.raises(RecipeError, match="no depth head 'other'"):
        map_depth(relative.out, photo, [tmp_path / "map.png"], output="other")
    with pytest.raises(DataError, match="cannot read"):
        map_depth(relative.out, tmp_path / "absent.png", [tmp_path / "map.png"])
    source = export_source(tiny_model.bake(70, 70), Preprocess.for_size(70, 70), None)
    plain = OnnxBackend().export(source, "fp32", "standard", tmp_path / "plain.onnx")
    with pytest.raises(DataError, match="puts out no depth"):
        map_depth(plain.path, photo, [tmp_path / "map.png"])
    assert not list(tmp_path.glob("map*"))


def test_a_model_that_crops_maps_the_part_that_it_sees(relative: BuildResult) -> None:
    """A depth head on a backbone that crops, as DINOv2's own: the same file, described so."""
    artifact = OnnxBackend().read(relative.out / "onnx" / "model.onnx")
    cropping = Preprocess.for_size(*SQUARE)
    assert _covered((150, 100), artifact.preprocess) == (0, 0, 150, 100)
    left, top, right, bottom = _covered((150, 100), cropping)
    side = 100 * 70 / cropping.resize  # of the square that the crop covers, in the photograph's pixels
    assert abs(right - left - side) <= 1
    assert abs(bottom - top - side) <= 1
    assert abs((left + right) / 2 - 75) <= 1


def test_the_report_shows_depth_maps_and_errors_in_the_tasks_unit(metric: BuildResult, relative: BuildResult) -> None:
    for result, unit in ((metric, " m"), (relative, "% of range")):
        report = BuildReport.read_json(result.out / "report.json")
        assert report.head == "predicted_depth"
        for panel in report.panels:
            assert panel.maps.keys() == {report.reference, *report.drift}
            assert panel.errors.keys() == panel.maps.keys() - {report.reference}
            assert all(error.endswith(unit) for error in panel.errors.values())
        page = (result.out / "report.html").read_text(encoding="utf-8")
        assert "near places bright" in page
        assert "<h2>Heads</h2>" in page
    row = next(row for row in metric.manifest.artifacts if row.precision == "w8a8")
    assert row.drift is not None
    depth = row.drift["heads"]["predicted_depth"]
    assert (depth["measure"], depth["unit"]) == ("RMSE", "m")
    assert 0 < depth["AbsRel"] < 0.5
    assert 0.5 < depth["delta1"] <= 1
    assert "delta1" in (metric.out / "report.html").read_text(encoding="utf-8")


def test_a_bundle_carries_licence_and_preprocessing(relative: BuildResult, tmp_path: Path) -> None:
    write_bundle(relative.out, tmp_path / "bundle", platforms=("python",))
    processor = json.loads((tmp_path / "bundle/preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "DPTImageProcessor"
    assert processor["size"] == {"height": 70, "width": 70}
    weights = (tmp_path / "bundle/LICENSE.weights").read_text()
    assert "CC-BY-NC-4.0" in weights
    card = (tmp_path / "bundle/README.md").read_text()
    for words in ("license: cc-by-nc-4.0", "pipeline_tag: depth-estimation", "whole photograph", "inverse depth"):
        assert words in card
