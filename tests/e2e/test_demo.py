"""The demo as README promises it: real weights, real photographs, INT8 that keeps the features."""

from __future__ import annotations

import json

import pytest

from edgekit.backends import load
from edgekit.images import load_set
from edgekit.pipeline import build
from edgekit.recipe import Recipe

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def demo_build(tmp_path_factory):
    recipe = Recipe.make(
        {
            "precisions": ["fp32", "fp16", "w8a8"],
            "calibration": {"samples": 16},
            "fused": False,
            "dynamic_ranges": False,
        }
    )
    return build(recipe, tmp_path_factory.mktemp("demo") / "out")


def test_every_artifact_is_there_and_keeps_the_features(demo_build):
    rows = {row.name: row for row in demo_build.manifest.artifacts}
    assert [row.status for row in rows.values()] == ["ok"] * 3
    assert rows["onnx/fp32"].drift["sqnr_db"] > 100
    assert rows["onnx/fp16"].drift["cls_cosine_mean"] > 0.9999
    assert rows["onnx/w8a8"].drift["cls_cosine_mean"] > 0.995
    assert rows["onnx/w8a8"].drift["saliency_iou"] > 0.9
    assert rows["onnx/fp32"].size_mb / rows["onnx/w8a8"].size_mb > 3.5


def test_the_gemms_really_run_in_integers(demo_build):
    audit = next(row.audit for row in demo_build.manifest.artifacts if row.name == "onnx/w8a8")
    assert audit["gemms_int8"] >= 48  # four in each of twelve blocks


def test_the_report_shows_it_all(demo_build):
    report = json.loads((demo_build.out / "report.json").read_text())
    assert set(report["drift"]) == set(report["latency"]) == {"onnx/fp32", "onnx/fp16", "onnx/w8a8"}
    assert len(report["thumbnails"]) == 32
    assert set(report["panels"][0]["maps"]) == set(report["drift"])
    page = (demo_build.out / "report.html").read_text()
    assert demo_build.report is not None
    assert report["verdict"]["sentence"][:20] in page


def test_int8_still_tells_photographs_apart(demo_build):
    """Crops of one photograph are nearer to each other than to others, by the INT8 class token."""
    model = load(demo_build.out / "onnx" / "model_w8a8.onnx")
    images = load_set("demo", model.artifact.preprocess, samples=24, split="evaluation")
    tokens = model(images.pixel_values)["pooler_output"]
    tokens /= (tokens**2).sum(1, keepdims=True) ** 0.5
    similar = tokens @ tokens.T
    similar[range(24), range(24)] = -1
    photo = [name.split("#")[0] for name in images.paths]
    found = [photo[int(row.argmax())] for row in similar]
    assert sum(a == b for a, b in zip(photo, found, strict=True)) >= 16
