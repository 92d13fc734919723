"""One tiny model with registers, baked for an image that is not square, and its plan: what most tests here export."""

from __future__ import annotations

import pytest

from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import QuantPlan
from tests.support.pixels import OBLONG, noise
from tests.support.plans import rtn_plan


@pytest.fixture(scope="session")
def tiny(tiny_reg_model: VisionTransformer) -> VisionTransformer:
    return tiny_reg_model.bake(*OBLONG)


@pytest.fixture(scope="session")
def plan(tiny: VisionTransformer) -> QuantPlan:
    return rtn_plan(tiny, noise(OBLONG, 8))
