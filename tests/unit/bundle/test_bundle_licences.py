"""The licence of every known family of weights goes into a bundle as text: edgekit's copy or the checkpoint's own."""

from __future__ import annotations

import pytest

from edgekit.bundle.write import _licence_of_weights
from edgekit.models.depth_anything import licence_of
from edgekit.models.licences import DINOV3, SHIPPED
from edgekit.models.sources import GatedSource
from edgekit.models.zoo import entries

LICENCES = {entry.licence for entry in entries()} | {licence_of("v2", width) for width in (384, 768, 1024)}


@pytest.mark.parametrize("licence", sorted(LICENCES - {DINOV3}))
def test_the_text_of_a_published_licence_is_shipped(licence: str) -> None:
    assert licence in SHIPPED
    text = _licence_of_weights({"licence": licence, "origin": "the makers"})
    assert text.startswith(f"Weights: the makers\nLicence: {licence}\n\n")
    assert len(text) > 1000
    assert "{holder}" not in text


def test_the_text_of_a_gated_licence_is_the_checkpoints_own() -> None:
    assert all(isinstance(entry.sources[0], GatedSource) for entry in entries() if entry.licence == DINOV3)
    model = {"licence": DINOV3, "origin": "Meta", "licence_text": "DINOv3 License\nthe whole text\n"}
    assert _licence_of_weights(model).endswith("\n\nDINOv3 License\nthe whole text\n")
