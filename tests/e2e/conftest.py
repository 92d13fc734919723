"""A tiny checkpoint, a folder of pictures and one finished build, shared by the tests of whole builds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.vit import random_model
from edgekit.pipeline import BuildResult, build
from edgekit.recipe import Recipe
from tests.support.models import TINY

SIZE = 70


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(random_model(TINY), path)
    return path


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """24 smooth colour fields: every one its own, none of them noise."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for i in range(24):
        coarse = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((120, 100), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def recipe(checkpoint, pictures) -> Recipe:
    """ONNX in FP32 and INT8, with quantization steps that take a second on the tiny model."""
    return Recipe.make(
        {
            "model": str(checkpoint),
            "image_size": [(SIZE, SIZE)],
            "precisions": ["fp32", "w8a8"],
            "fused": False,
            "dynamic_ranges": False,
            "runtime_defaults": False,  # their rows depend on the CPU
            "calibration": {"source": str(pictures), "samples": 8},
            "evaluation": str(pictures),
            "evaluation_samples": 6,
        }
    )


@pytest.fixture(scope="session")
def model_flags(checkpoint, pictures) -> list[str]:
    """The flags of a build of the tiny model, but for what it makes and where."""
    return ["--model", str(checkpoint), "--image-size", str(SIZE), "--calib", str(pictures), "--samples", "8"]


@pytest.fixture(scope="session")
def built(recipe, tmp_path_factory) -> BuildResult:
    """One complete build, latency and report included. Not to be changed: copy it."""
    return build(recipe, tmp_path_factory.mktemp("built") / "out")


@pytest.fixture
def out(built, tmp_path) -> Path:
    """A copy of the finished build, times of change included."""
    shutil.copytree(built.out, tmp_path / "out")
    return tmp_path / "out"
