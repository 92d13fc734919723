"""Positions for images of any size: the graph's arithmetic gives what torch's interpolation and the tables give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.graph.sizes import Places
from edgekit.models.config import Interpolation, ViTConfig
from edgekit.models.rope import rotation_of
from edgekit.models.vit import VisionTransformer
from tests.support.arithmetic import NumpyArithmetic
from tests.support.models import TINY, TINY_ROPE

GRIDS = [(8, 8), (16, 16), (37, 37), (20, 29), (37, 49), (37, 16), (7, 70), (73, 73), (1, 1), (2, 90)]
STORED = (37, 37)


def places(config: ViTConfig, rows: int, columns: int) -> Places[np.ndarray]:
    return Places(NumpyArithmetic(), config, np.array([rows], np.float32), np.array([columns], np.float32))


@pytest.mark.parametrize("interpolation", ["offset", "antialias", "size"])
@pytest.mark.parametrize("stored", [STORED, (16, 20)], ids=lambda grid: "x".join(map(str, grid)))
def test_tables_are_resized_as_torch_does(interpolation: Interpolation, stored: tuple[int, int]) -> None:
    config = replace(TINY, width=8, interpolation=interpolation, grid=stored)
    model = VisionTransformer(config)
    torch.nn.init.normal_(model.pos_embed, generator=torch.Generator().manual_seed(0))
    table = model.pos_embed.detach().numpy()[:, 1:]
    for rows, columns in GRIDS:
        wanted = model.position_embedding(rows * config.patch, columns * config.patch)[:, 1:].detach().numpy()
        found = places(config, rows, columns).positions(table)
        assert found.shape == wanted.shape
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, atol=5e-5, rtol=0, err_msg=f"{rows}x{columns}")


@pytest.mark.parametrize("interpolation", ["offset", "antialias", "size"])
def test_a_table_of_the_same_size_is_taken_as_it_is(interpolation: Interpolation) -> None:
    config = replace(TINY, width=8, interpolation=interpolation, grid=STORED)
    table = np.random.default_rng(0).standard_normal((1, 37 * 37, 8), np.float32)
    np.testing.assert_array_equal(places(config, *STORED).positions(table), table)


def test_rotary_tables_are_those_of_a_baked_model() -> None:
    for rows, columns in GRIDS:
        wanted = rotation_of(replace(TINY_ROPE, grid=(rows, columns)))
        for table, found in zip(wanted, places(TINY_ROPE, rows, columns).tables, strict=True):
            np.testing.assert_allclose(found, table, atol=2e-6, rtol=0, err_msg=f"{rows}x{columns}")
