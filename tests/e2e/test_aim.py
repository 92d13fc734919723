"""`--optimize-for`: one artifact is chosen by what was measured, recorded, and opened by `edgekit.load`."""

from __future__ import annotations

import json

from edgekit.backends import load
from edgekit.cli import main
from edgekit.manifest import Manifest
from edgekit.pipeline import build
from edgekit.report.verdict import Aim


def test_an_aim_chooses_by_measurement_and_load_opens_the_choice(recipe, out):
    result = build(recipe, out, aim=Aim(goal="size", max_drop=0.9))
    assert result.made == ()
    assert Manifest.read(out).choice == result.verdict.recorded()
    assert result.verdict.choice == "onnx/w8a8"
    assert build(recipe, out, aim=Aim(goal="accuracy", max_drop=0)).verdict.choice == "onnx/fp32"
    assert load(out).artifact.name == "onnx/fp32"
    assert json.loads((out / "report.json").read_text())["verdict"]["choice"] == "onnx/fp32"


def test_no_artifact_within_the_limit_is_exit_3(recipe, out):
    words = [
        "--model",
        recipe.model,
        "--image-size",
        "70",
        "--format",
        "onnx",
        "--precision",
        "w8a8",
        "--out",
        str(out),
    ]
    images = ["--calib", recipe.calibration.source, "--samples", "8", "--eval-samples", "6"]
    assert main(["build", *words, *images, "--optimize-for", "latency", "--max-drop", "0.0000001"]) == 3
    assert Manifest.read(out).choice.artifact is None
