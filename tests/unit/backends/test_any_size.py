"""Files that take images of any size: parity with torch at ten sizes, and the integers of baked files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.artifact import Artifact
from edgekit.backends import get_backend
from edgekit.backends.base import Backend
from edgekit.backends.source import ExportSource
from edgekit.errors import DataError
from edgekit.metrics import sqnr_db
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.plan.quant import QuantPlan
from edgekit.precision import Precision, Variant
from edgekit.quantization.simulate import simulate
from edgekit.workflows.join import at_size
from tests.support.metrics import expected
from tests.support.models import TINY, TINY_REG, TINY_ROPE, TINY_ROPE_SWIGLU
from tests.support.pixels import noise
from tests.support.plans import export_source, rtn_plan

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

MODELS = {config.arch: config for config in (TINY, TINY_REG, TINY_ROPE, TINY_ROPE_SWIGLU)}
GRIDS = [(2, 2), (5, 5), (4, 4), (5, 4), (3, 8), (9, 2), (6, 7), (10, 10), (2, 12), (12, 12)]  # in patches
FORMATS = [format_ for format_ in ("onnx", "openvino") if get_backend(format_).any_size]
PARITY = 1e-4


def source(model: VisionTransformer, plan: QuantPlan | None = None) -> ExportSource:
    """A model for images of 2 to 12 patches a side, compared at 5 x 4 of them."""
    patch = model.config.patch
    transform = model.config.preprocess(5 * patch, 4 * patch, sides=(2 * patch, 12 * patch))
    return export_source(model, transform, plan)


def plan_of(model: VisionTransformer, **options: object) -> QuantPlan:
    return rtn_plan(model, noise((5 * model.config.patch, 4 * model.config.patch), 4, seed=1), **options)  # type: ignore[arg-type]


@pytest.fixture(params=FORMATS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return get_backend(request.param)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> VisionTransformer:
    return random_model(MODELS[request.param])


def require(backend: Backend, variant: Variant) -> None:
    if variant == "fused" and (reason := backend.fused_missing()):
        pytest.skip(reason)


def runs(backend: Backend, artifact: Artifact) -> Callable[[torch.Tensor], np.ndarray]:
    runner = backend.runner(artifact, threads=1)
    return lambda pixels: runner(pixels.numpy())["last_hidden_state"]


@pytest.mark.parametrize("variant", ["standard", "fused"])
def test_a_float_file_is_the_model_at_ten_sizes(
    backend: Backend, model: VisionTransformer, variant: Variant, tmp_path: Path
) -> None:
    require(backend, variant)
    path = tmp_path / f"model{backend.suffix}"
    run = runs(backend, backend.export(source(model), "fp32", variant, path))
    for grid in GRIDS:
        pixels = noise((grid[0] * model.config.patch, grid[1] * model.config.patch))
        np.testing.assert_allclose(run(pixels), expected(model, pixels), atol=PARITY, rtol=0, err_msg=str(grid))


@pytest.mark.parametrize(
    ("precision", "variant", "inputs"),
    [
        ("w8a8", "standard", "static"),
        ("w8a8", "standard", "token_groups"),
        ("w8a8", "standard", "token_scaled"),
        ("w8a8", "fused", "static"),
        ("w8a16", "fused", "static"),
    ],
)
def test_an_integer_file_computes_what_baked_ones_compute(
    backend: Backend, model: VisionTransformer, precision: Precision, variant: Variant, inputs: str, tmp_path: Path
) -> None:
    """One file against a baked one of each size, written from the same plan."""
    require(backend, variant)
    plan = plan_of(model, inputs=inputs, keep_float=() if variant == "standard" else ("patch_embed.proj",))
    artifact = backend.export(source(model, plan), precision, variant, tmp_path / f"any{backend.suffix}")
    assert artifact.inputs[0].shape == ("batch", 3, "height", "width")
    assert artifact.outputs[0].shape == ("batch", "tokens", model.config.width)
    run = runs(backend, artifact)
    for rows, columns in GRIDS[2:6]:
        size = rows * model.config.patch, columns * model.config.patch
        baked = model.bake(*size)
        given = export_source(baked, model.config.preprocess(*size), at_size(plan, baked))
        path = tmp_path / f"{rows}x{columns}{backend.suffix}"
        alone = runs(backend, backend.export(given, precision, variant, path))
        pixels = noise(size)
        assert sqnr_db(alone(pixels), run(pixels)) > 40, (rows, columns)


def test_integer_attention_has_its_dither_at_any_size(backend: Backend, tmp_path: Path) -> None:
    model = random_model(TINY_REG)
    whole = plan_of(model, level="all")
    name, matmul = next(iter(whole.matmuls.items()))
    alone = QuantPlan(whole.config, whole.image_size, whole.float_tensors, {}, {name: matmul})
    artifact = backend.export(source(model, alone), "w8a8", "standard", tmp_path / f"model{backend.suffix}")
    run = runs(backend, artifact)
    for rows, columns in GRIDS[2:6]:
        pixels = noise((rows * 14, columns * 14))
        assert sqnr_db(expected(simulate(alone), pixels), run(pixels)) > 50  # without its dither 30


def test_a_size_that_is_no_multiple_or_beyond_the_range_names_the_nearest(backend: Backend, tmp_path: Path) -> None:
    model = random_model(TINY)
    artifact = backend.export(source(model), "fp32", "standard", tmp_path / f"model{backend.suffix}")
    runner = backend.runner(artifact, threads=1)
    for size, nearest in [((75, 56), "70x56"), ((14, 56), "28x56"), ((70, 182), "70x168")]:
        with pytest.raises(DataError, match=nearest):
            runner(noise(size).numpy())
