"""Several image sizes in one Core ML package: each function is its own package's program, weights stand there once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.source import ExportSource
from edgekit.errors import DataError, ExportError
from edgekit.models.vit import VisionTransformer
from edgekit.precision import Precision
from edgekit.quantization.simulate import simulate
from tests.support.pixels import noise
from tests.support.plans import rtn_plan

pytest.importorskip("coremltools")

from edgekit.backends.coreml.backend import CoreMlBackend
from edgekit.backends.coreml.interpreter.program import MilProgram
from edgekit.backends.coreml.package import read_function_names
from edgekit.backends.coreml.sizes import join_packages
from edgekit.workflows.join import at_size

SIZES = ((70, 56), (84, 98))


def exported(model: VisionTransformer, folder: Path, precision: Precision) -> list[Artifact]:
    """A package for each size, of one plan."""
    baked = [model.bake(*size) for size in SIZES]
    plan = None if precision == "fp16" else rtn_plan(baked[0], noise(SIZES[0], 8))
    return [
        CoreMlBackend().export(
            ExportSource(each, Preprocess.for_size(*size), plan and at_size(plan, each), "tiny", "MIT", "0" * 64, ""),
            precision,
            "standard",
            folder / f"{precision}_{size[0]}.mlpackage",
        )
        for each, size in zip(baked, SIZES, strict=True)
    ]


@pytest.fixture(scope="module")
def apart(tiny_reg_model: VisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> list[Artifact]:
    """In fp16."""
    return exported(tiny_reg_model, tmp_path_factory.mktemp("apart"), "fp16")


@pytest.mark.parametrize("precision", ["fp16", "w8a8"])
def test_both_sizes_run_out_of_one_package_that_is_hardly_larger(
    precision: Precision, apart: list[Artifact], tiny_reg_model: VisionTransformer, tmp_path: Path
) -> None:
    if precision == "w8a8":
        apart = exported(tiny_reg_model, tmp_path, precision)
    joined = join_packages(apart, tmp_path / "joined.mlpackage")
    assert {artifact.path for artifact in joined} == {tmp_path / "joined.mlpackage"}
    assert read_function_names(joined[0].path) == ("size_70x56", "size_84x98")
    assert joined[0].size_mb < 1.1 * max(artifact.size_mb for artifact in apart)
    assert f"{joined[0].size_mb:.1f} MB" in joined[0].notes[-1]
    plan = rtn_plan(tiny_reg_model.bake(*SIZES[0]), noise(SIZES[0], 8))
    for artifact, size in zip(joined, SIZES, strict=True):
        model = tiny_reg_model.bake(*size)
        if precision == "w8a8":
            model = simulate(at_size(plan, model))
        with torch.no_grad():
            expected = model(noise(size, 1))[0].numpy()
        actual = CoreMlBackend().runner(artifact)(noise(size, 1).numpy())["last_hidden_state"]
        assert ((actual - expected) ** 2).sum() < 1e-3 * (expected**2).sum()


def test_the_first_size_runs_unasked_and_the_file_says_what_it_is(apart: list[Artifact], tmp_path: Path) -> None:
    joined = join_packages(apart, tmp_path / "joined.mlpackage")
    assert CoreMlBackend().read(tmp_path / "joined.mlpackage") == joined[0]
    x = {"pixel_values": noise(SIZES[0], 1).numpy()}
    np.testing.assert_array_equal(
        MilProgram(joined[0].path)(x)["pooler_output"], MilProgram(apart[0].path)(x)["pooler_output"]
    )
    with pytest.raises(DataError, match=r"no function size_14x14.*size_70x56, size_84x98"):
        MilProgram(joined[0].path, "size_14x14")
    again = join_packages(apart, tmp_path / "again.mlpackage")
    assert again[0].sha256 == joined[0].sha256


def test_macos_is_asked_for_the_function_of_the_size(
    apart: list[Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calling convention of Core ML's own loader, which only macOS has: a stand-in takes its place."""
    import coremltools as ct

    joined = join_packages(apart, tmp_path / "joined.mlpackage")
    asked = []
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(ct.models, "MLModel", lambda path, *, compute_units, function_name: asked.append(function_name))
    for artifact in (*joined, apart[0]):
        CoreMlBackend().runner(artifact)
    assert asked == ["size_70x56", "size_84x98", None]


def test_what_cannot_be_joined_is_refused(apart: list[Artifact], tmp_path: Path) -> None:
    path = tmp_path / "joined.mlpackage"
    for wrong in ([], apart[:1], [*apart, apart[0]]):
        with pytest.raises(ExportError, match="image sizes cannot be joined"):
            join_packages(wrong, path)
    with pytest.raises(ExportError, match="different models or precisions"):
        join_packages([apart[0], apart[1].model_copy(update={"parent_sha256": "1" * 64})], path)
    swapped = [apart[0], apart[1].model_copy(update={"preprocess": Preprocess.for_size(56, 56)})]
    with pytest.raises(DataError, match="pixel_values has shape"):
        join_packages(swapped, path)
    assert not path.exists()


def test_a_rotated_plan_belongs_to_its_size(tiny_reg_model: VisionTransformer) -> None:
    baked = tiny_reg_model.bake(*SIZES[0])
    plan = rtn_plan(baked, noise(SIZES[0], 2))
    plan.float_tensors["unrotate"] = np.eye(baked.config.width, dtype=np.float32)
    with pytest.raises(ExportError, match="rotated plan"):
        at_size(plan, tiny_reg_model.bake(*SIZES[1]))
