"""Models that every test may use. They are shared: copy (or `bake`) before changing one."""

from __future__ import annotations

import pytest

from edgekit.models import zoo
from edgekit.models.vit import VisionTransformer, random_model
from tests.support import models as generators
from tests.support.markers import markers_of


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the format, the library or the time that they need."""
    for item in items:
        for marker in sorted(markers_of(item.nodeid)):
            item.add_marker(marker)


@pytest.fixture(scope="session")
def demo() -> zoo.LoadedModel:
    """The demo checkpoint with its saliency head, downloaded once per machine into edgekit's cache."""
    return zoo.load("demo")


@pytest.fixture(scope="session")
def demo_model(demo: zoo.LoadedModel) -> VisionTransformer:
    """The un-baked ViT-S/14 with real weights."""
    return demo.model


@pytest.fixture(scope="session")
def tiny_model() -> VisionTransformer:
    """Random 2-block model without registers."""
    return random_model(generators.TINY)


@pytest.fixture(scope="session")
def tiny_reg_model() -> VisionTransformer:
    """Random 2-block model with 4 registers."""
    return random_model(generators.TINY_REG)


@pytest.fixture(scope="session")
def tiny_swiglu_model() -> VisionTransformer:
    """Random 2-block SwiGLU model with 4 registers."""
    return random_model(generators.TINY_SWIGLU)


@pytest.fixture(scope="session")
def wide_demo_model(demo_model: VisionTransformer) -> VisionTransformer:
    """A ViT-B/14 that computes what the demo ViT-S/14 does, twice over."""
    return generators.duplicate_width(demo_model)


@pytest.fixture(scope="session")
def stress_model(demo_model: VisionTransformer) -> VisionTransformer:
    """The demo function with injected outliers."""
    return generators.inject_outliers(demo_model)
