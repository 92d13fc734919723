"""Rows of a runtime's own arithmetic: the same file, measured again where the runtime computes otherwise here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

import edgekit
from edgekit.artifact import Artifact
from edgekit.errors import DataError
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.models.vit import VisionTransformer
from edgekit.pipeline import build
from edgekit.pipeline.jobs import jobs_of, on_this_machine
from edgekit.recipe import Recipe
from tests.support.models import photographs

pytest.importorskip("openvino")
CLAUSE = "floats are bf16"


@pytest.fixture
def otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make OpenVINO say of its FP32 files that it computes otherwise here."""

    def own(precision: str, variant: str) -> str | None:
        return CLAUSE if (precision, variant) == ("fp32", "standard") else None

    monkeypatch.setattr("edgekit.backends.openvino.runner.own_arithmetic", own)


@pytest.fixture
def built(tmp_path: Path, tiny_reg_model: VisionTransformer, otherwise: None) -> Path:
    path, pictures = tmp_path / "tiny.safetensors", tmp_path / "photographs"
    save_file({key: value.clone() for key, value in tiny_reg_model.state_dict().items()}, path)
    photographs(pictures, 8)
    settings = {"formats": "onnx,openvino", "precisions": "fp32", "fused": False, "image_size": 56}
    settings |= {"evaluation": str(pictures), "evaluation_samples": 4}
    build(Recipe.of(path, **settings), tmp_path / "out", measure="drift")
    return tmp_path / "out"


def test_a_row_is_added_where_the_runtime_computes_otherwise(otherwise: None) -> None:
    recipe = Recipe(formats=("onnx", "openvino"), precisions=("fp32",), fused=False)
    plain = [(job.name, job.path) for job in on_this_machine(jobs_of(recipe))]
    found = [(job.name, job.path) for job in on_this_machine(jobs_of(recipe), runtime_defaults=True)]
    assert found == [*plain, ("openvino/fp32_default", "openvino/model.xml")]


def test_it_is_measured_as_a_row_of_its_own(built: Path) -> None:
    rows = {row.name: row for row in Manifest.read(built).artifacts}
    plan, own = rows["openvino/fp32"], rows["openvino/fp32_default"]
    assert (own.status, own.path, own.sha256) == ("ok", plan.path, plan.sha256)
    assert (plan.arithmetic, own.arithmetic) == ("plan", "default")
    assert own.drift is not None
    assert CLAUSE in own.notes[0]
    assert "arithmetic" not in plan.model_dump()


def test_a_build_again_keeps_it(built: Path) -> None:
    again = build(Recipe.model_validate(Manifest.read(built).recipe), built, measure="drift")
    assert (again.made, "openvino/fp32_default" in again.kept) == ((), True)


def test_load_takes_the_arithmetic_of_the_plan_unless_told(built: Path) -> None:
    path, pixels = built / "openvino" / "model.xml", np.zeros((1, 3, 56, 56), np.float32)
    assert edgekit.load(path).artifact.arithmetic == "plan"
    own = edgekit.load(path, arithmetic="default")
    assert own.artifact.arithmetic == "default"
    assert own(pixels)["pooler_output"].shape == (1, own.artifact.outputs[1].shape[1])
    assert edgekit.load(built, arithmetic="default").artifact.arithmetic == "default"
    with pytest.raises(DataError, match="arithmetic = str 'bf16'"):
        edgekit.load(path, arithmetic="bf16")  # type: ignore[arg-type]


def test_the_settings_are_left_to_the_plugin() -> None:
    import openvino as ov

    from edgekit.backends.openvino.runner import plugin_settings

    model = ov.Model([], [], "empty")
    assert plugin_settings(model, "latency", 2, "default") == {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 2,
    }
    assert plugin_settings(model, "latency", None)["INFERENCE_PRECISION_HINT"] == "f32"


def test_bundles_and_apps_take_the_plan(built: Path) -> None:
    from edgekit.bundle.select import _is_for_apps

    rows = {row.name: row for row in Manifest.read(built).artifacts}
    assert _is_for_apps(rows["openvino/fp32"])
    assert not _is_for_apps(rows["openvino/fp32_default"])


def test_it_stands_in_files_only_where_it_is_not_the_plans() -> None:
    assert set(Artifact.model_fields) >= {"arithmetic"}
    row = ArtifactRow(name="openvino/fp32", format="openvino", precision="fp32", status="failed", reason="no")
    assert "arithmetic" not in row.model_dump()
    assert row.model_copy(update={"arithmetic": "default"}).model_dump()["arithmetic"] == "default"
