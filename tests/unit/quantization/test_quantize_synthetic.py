"""Probes stay in the gamut of the photographs, are seeded, and are what they say: pure colours and flat greys."""

from __future__ import annotations

import torch

from edgekit.quantization.synthetic import TILES, synthetic_images

COUNT = 4 * len(TILES)


def test_synthetic_images_fill_the_gamut_and_no_more() -> None:
    channels = torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    pixels = torch.rand(4, 3, 70, 56, generator=torch.Generator().manual_seed(0)) * channels
    made = synthetic_images(pixels, COUNT, 14)
    assert made.shape == (COUNT, 3, 70, 56)
    torch.testing.assert_close(made.amin((0, 2, 3)), pixels.amin((0, 2, 3)))
    torch.testing.assert_close(made.amax((0, 2, 3)), pixels.amax((0, 2, 3)))
    assert torch.equal(made, synthetic_images(pixels, COUNT, 14))


def test_mosaics_and_greys_take_turns() -> None:
    pixels = torch.rand(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    made = synthetic_images(pixels, COUNT, 14)
    sharp, grey, blurred = made[0], made[1], made[2]
    assert len(sharp.unique()) <= 9
    assert len(blurred.unique()) > 100
    assert grey.std() < 0.05 < sharp.std()
