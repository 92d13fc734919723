"""Colour probes stay in the gamut of the photographs, are seeded, and keep a static range from clipping."""

from __future__ import annotations

import torch

from edgekit.quantize.probes import TILES, colour_probes


def test_probes_fill_the_gamut_and_no_more() -> None:
    pixels = (
        torch.rand(4, 3, 70, 56, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    )
    probes = colour_probes(pixels, 2 * len(TILES), 14)
    assert probes.shape == (2 * len(TILES), 3, 70, 56)
    assert torch.allclose(probes.amin((0, 2, 3)), pixels.amin((0, 2, 3)), atol=1e-6)
    assert torch.allclose(probes.amax((0, 2, 3)), pixels.amax((0, 2, 3)))
    assert torch.equal(probes, colour_probes(pixels, 2 * len(TILES), 14))
    flat = probes[TILES.index(64.0)].flatten(1)
    assert torch.equal(flat.amin(1), flat.amax(1))  # one colour all over


def test_sharp_and_blurred_mosaics_take_turns() -> None:
    pixels = torch.rand(2, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    probes = colour_probes(pixels, 2 * len(TILES), 14)
    sharp, blurred = probes[0], probes[len(TILES)]
    assert len(sharp.unique()) <= 9
    assert len(blurred.unique()) > 100
