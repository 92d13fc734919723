"""The web page in headless Chromium and the bundle in transformers.js, both from the demo's bundle, as an app would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import write_bundle
from edgekit.images import preprocess, read_image, to_pixels
from edgekit.images.demo import PHOTOGRAPHS
from edgekit.pipeline import build
from edgekit.recipe import Recipe
from tests.support import wasm_ops

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are not installed"),
]
needs_chromium = pytest.mark.skipif(
    not (os.environ.get("CHROMIUM") or shutil.which("chromium")),
    reason="Chromium is not installed: apt-get install chromium, or CHROMIUM=/path/to/it",
)


FORMATS = ["onnx"] if wasm_ops.missing() else ["onnx", "edgekit"]
"""The library of `.edgekit` files is built for the page with zig."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """Of the demo model, with the packages of its web/ folder installed."""
    folder = tmp_path_factory.mktemp("demo")
    recipe = Recipe.make(
        {
            "formats": FORMATS,
            "precisions": ["fp32", "fp16", "w8a8"],
            "calibration": {"samples": 16},
            "fused": False,
            "dynamic_ranges": False,
        }
    )
    build(recipe, folder / "out", measure="none")
    made = write_bundle(folder / "out", folder / "bundle", platforms=["web"]).path
    npm(made / "web", "ci")
    return made


@pytest.fixture(scope="module")
def salient_bundle(recipe, tmp_path_factory) -> Path:
    """Of a tiny model that normalises itself and has a third output `saliency` (B, H, W): how light a pixel is."""
    import onnx
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("salient")
    build(Recipe.make(recipe.model_dump() | {"normalize": "graph"}), folder / "out", measure="none")
    made = write_bundle(folder / "out", folder / "bundle", platforms=["web"]).path
    for path in (made / "onnx").glob("*.onnx"):
        model = onnx.load(path)
        model.graph.initializer.extend(
            [helper.make_tensor("channels", TensorProto.INT64, [1], [1]), helper.make_tensor("white", 1, [], [255.0])]
        )
        model.graph.node.extend(
            [
                helper.make_node("ReduceMean", ["pixel_values", "channels"], ["grey"], keepdims=0),
                helper.make_node("Div", ["grey", "white"], ["saliency"]),
            ]
        )
        model.graph.output.append(helper.make_tensor_value_info("saliency", TensorProto.FLOAT, None))
        onnx.save(model, path)
    npm(made / "web", "ci")
    return made


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    """Two of the demo photographs: of a cat and of coffee."""
    found = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    paths = [tmp_path / "chelsea.png", tmp_path / "coffee.png"]
    for path in paths:
        found[path.stem].open().save(path)
    return paths


def npm(folder: Path, *words: str) -> str:
    """Run npm and return what it printed; a failure shows it."""
    done = subprocess.run(["npm", *words], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_page(bundle: Path, *words: str | Path, into: Path) -> dict[str, Any]:
    """Build the page of a bundle, drive it in Chromium, and return what it saw."""
    npm(bundle / "web", "run", "build")
    npm(bundle / "web", "run", "check", "--", *map(str, words), "--json", str(into / "result.json"))
    return json.loads((into / "result.json").read_text())


def test_the_code_of_the_page(bundle):
    npm(bundle / "web", "test")


@needs_chromium
def test_the_page_checks_itself_and_compares_two_photographs(bundle, photos, tmp_path):
    screenshots, latency = tmp_path / "screenshots", tmp_path / "latency.json"
    words = [*photos, "--screenshots", screenshots, "--latency", latency, "--offline"]
    result = check_page(bundle, *words, into=tmp_path)
    assert result["isolated"]  # else no threads
    assert result["errors"] == []
    names = {model["model"].partition(",")[0] for model in result["models"]}
    assert {name for name in names if name.startswith("onnx/")} == {"onnx/fp32", "onnx/fp16", "onnx/w8a8"}
    assert {"edgekit/fp32", "edgekit/w8a8"} <= names or "edgekit" not in FORMATS
    assert all(model["passed"] for model in result["models"]), result["models"]
    assert 0 < result["similarity"] < 0.9
    assert not result["saliency"]  # the demo's ONNX files have no such output
    assert "not an image" in result["messages"][0]
    assert "model not found" in result["messages"][1]
    assert int(result["frames"].split()[0]) >= 3
    assert result["cancelled"] == "Cancelled."
    assert len(list(screenshots.glob("*.png"))) == 4
    if "edgekit" in FORMATS:
        assert result["offline"].startswith("Ready")  # ONNX models are not kept
        assert set(result["firstLoad"]) == {"wasm", "edgekit"}
        assert sum(result["firstLoad"].values()) < 25e6

    transform = json.loads((bundle / "manifest.json").read_text())["artifacts"][0]["preprocess"]
    for photo, crop in zip(photos, result["crops"], strict=True):
        assert_same_crop(crop, photo, transform)

    rows = json.loads(latency.read_text())
    assert {row["artifact"] for row in rows} == names
    assert all(row["p50_ms"] >= row["min_ms"] > 0 for row in rows)
    assert all(row["speedup"] == 1 for row in rows if row["artifact"] == "onnx/fp32")
    assert all(row["cls_cosine"] > 0.99 for row in rows)


@needs_chromium
def test_saliency_shows_where_a_model_has_it(salient_bundle, photos, tmp_path):
    result = check_page(salient_bundle, *photos, into=tmp_path)
    assert result["saliency"]
    assert all(model["passed"] for model in result["models"]), result["models"]


def test_transformers_js_on_node(bundle):
    npm(bundle / "web" / "node", "ci")
    said = npm(bundle / "web" / "node", "test")
    for dtype in ("fp32", "fp16", "q8"):
        assert f"{dtype}: least cosine with the golden vectors" in said


def assert_same_crop(crop: list[int], photo: Path, transform: dict[str, Any]) -> None:
    """What the page showed the model against Python's own crop of the file."""
    from edgekit.artifact import Preprocess

    expected = Preprocess.model_validate(transform)
    pixels = to_pixels(preprocess(read_image(photo), expected), expected)
    np.testing.assert_array_equal(np.array(crop, np.uint8).reshape(pixels.shape), pixels)
