"""Core ML packages whose input is a picture: the same features, and refusals of what cannot take one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edgekit
from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.source import ExportSource, rgb_source
from edgekit.errors import ExportError
from edgekit.metrics import sqnr_db
from edgekit.models.vit import VisionTransformer
from edgekit.precision import Precision
from tests.support.plans import export_source, rtn_plan

pytest.importorskip("coremltools")

from edgekit.backends.coreml.backend import CoreMlBackend
from edgekit.backends.coreml.image import take_images
from edgekit.backends.coreml.runner import CoreMlRunner

SIZE = (70, 56)


@pytest.fixture(scope="module")
def float_source(tiny_reg_model: VisionTransformer) -> ExportSource:
    model = tiny_reg_model.bake(*SIZE)
    return export_source(model, Preprocess.for_size(*SIZE), None)


@pytest.fixture(scope="module")
def planned(float_source: ExportSource) -> ExportSource:
    """Its patch embedding is float, as by default."""
    pixels = torch.randn(8, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    return replace(float_source, plan=rtn_plan(float_source.model, pixels, keep_float=("patch_embed.proj",)))


def export(source: ExportSource, precision: Precision, path: Path) -> Artifact:
    return CoreMlBackend().export(source, precision, "standard", path)


@pytest.mark.parametrize(("precision", "least_db"), [("fp16", 45), ("w8a8", 30)])
def test_a_picture_gives_the_features_of_normalised_pixels(
    precision: Precision, least_db: float, float_source: ExportSource, planned: ExportSource, tmp_path: Path
) -> None:
    from coremltools.models import MLModel

    source = planned if precision == "w8a8" else float_source
    plain = export(source, precision, tmp_path / "plain.mlpackage")
    taking = take_images(export(rgb_source(source), precision, tmp_path / "rgb.mlpackage"), tmp_path / "i.mlpackage")
    assert CoreMlBackend().read(taking.path) == taking
    (feature,) = MLModel(str(taking.path), skip_model_load=True).get_spec().description.input
    assert (feature.name, feature.type.WhichOneof("Type")) == ("image", "imageType")
    assert (feature.type.imageType.height, feature.type.imageType.width) == SIZE
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    expected, actual = (edgekit.load(artifact.path)(picture)["last_hidden_state"] for artifact in (plain, taking))
    assert sqnr_db(expected, actual) > least_db


def test_macos_is_fed_a_picture(float_source: ExportSource, tmp_path: Path) -> None:
    """The calling convention of Core ML's `predict`, which only macOS has: a stand-in takes its place."""
    rgb = export(rgb_source(float_source), "fp32", tmp_path / "rgb.mlpackage")
    taking = take_images(rgb, tmp_path / "i.mlpackage")
    fed = []

    def predict(inputs: dict[str, Image.Image]) -> dict[str, np.ndarray]:
        fed.append(inputs["image"])
        return {spec.name: np.zeros(spec.shape) for spec in taking.outputs}

    CoreMlRunner(taking, predict)(np.full((1, 3, *SIZE), 200.4))
    assert (fed[0].size, fed[0].mode, fed[0].getpixel((0, 0))) == (SIZE[::-1], "RGB", (200, 200, 200))
    with pytest.raises(ExportError, match="already takes images"):
        take_images(taking, tmp_path / "again.mlpackage")


def test_what_cannot_take_pictures_says_why(float_source: ExportSource, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="wants normalised pixels"):
        take_images(export(float_source, "fp32", tmp_path / "host.mlpackage"), tmp_path / "i.mlpackage")
    integer = rtn_plan(float_source.model, torch.randn(4, 3, *SIZE))
    with pytest.raises(ExportError, match="patch embedding is of integers"):
        rgb_source(replace(float_source, plan=integer))
