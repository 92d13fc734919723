"""One plan, four formats: every runtime gives the features that ONNX Runtime gives."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgekit.artifact import FORMATS, Format, Preprocess
from edgekit.backends import get_backend
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import QuantPlan
from tests.support.pixels import noise
from tests.support.plans import export_source, rtn_plan

SIZE = (70, 56)
pixels = partial(noise, SIZE)


@pytest.fixture(scope="module")
def model(tiny_reg_model: VisionTransformer) -> VisionTransformer:
    return tiny_reg_model.bake(*SIZE)


@pytest.fixture(scope="module")
def plan(model: VisionTransformer) -> QuantPlan:
    return rtn_plan(model, pixels(8))


def features(format_: Format, model: VisionTransformer, plan: QuantPlan, folder: Path) -> np.ndarray:
    """(2, N * D) of the w8a8 file."""
    backend = get_backend(format_)
    if reason := backend.missing() or backend.runner_missing():
        pytest.skip(reason)
    source = export_source(model, Preprocess.for_size(*SIZE), plan)
    artifact = backend.export(source, "w8a8", "standard", folder / backend.filename("w8a8", "standard"))
    return backend.runner(artifact, 1)(pixels(2).numpy())["last_hidden_state"].reshape(2, -1)


@pytest.mark.parametrize("format_", [name for name in FORMATS if name != "onnx"])
def test_the_same_plan_gives_the_same_features(
    format_: Format, model: VisionTransformer, plan: QuantPlan, tmp_path: Path
) -> None:
    a, b = (features(name, model, plan, tmp_path) for name in ("onnx", format_))
    cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    least = {"coreml": 0.9997, "edgekit": 0.9995}  # scales in float16; ranges per token instead of static ones
    assert cosine.min() > least.get(format_, 0.9999)
