"""Checkpoints that bring a head, as their own libraries write them, and what edgekit makes of the head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
)

from edgekit.graph.heads import Head
from edgekit.graph.torch_emitter import run_with_heads
from edgekit.heads.own import wanted_heads
from edgekit.heads.read import read_heads
from edgekit.models import zoo
from edgekit.models.zoo import LoadedModel
from tests.support.depth_anything import shaken
from tests.support.pixels import noise

SIZES = pytest.mark.parametrize("size", [(70, 70), (56, 84)], ids=["square", "wide"])
WIDTH = 128
NAMES = ("cat", "dog", "Vögel")
pixels = partial(noise, seed=1)


def classifier(*, registers: bool) -> nn.Module:
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    shape = {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 70, "patch_size": 14}
    if registers:
        config = Dinov2WithRegistersConfig(**shape, **labels, num_register_tokens=4)
        return shaken(Dinov2WithRegistersForImageClassification(config))
    return shaken(Dinov2ForImageClassification(Dinov2Config(**shape, **labels)))


def published(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The state under the names of published files, which differ from those in memory."""
    model.save_pretrained(folder / "published")
    return load_file(folder / "published" / "model.safetensors")


def heads_of(loaded: LoadedModel, **asked: str) -> dict[str, Head]:
    return read_heads(wanted_heads(asked, True, loaded), loaded)


def outputs(loaded: LoadedModel, size: tuple[int, int], **asked: str) -> dict[str, np.ndarray]:
    return run_with_heads(loaded.model.bake(*size), heads_of(loaded, **asked), pixels(size).numpy())


def assert_equal(actual: np.ndarray, expected: Tensor) -> None:
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    assert expected.std() > 1e-3 * np.abs(expected).max()
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


def broken(path: Path, change: Mapping[str, Tensor | None]) -> LoadedModel:
    state = load_file(path / "model.safetensors")
    for key, value in change.items():
        if value is None:
            assert [state.pop(name) for name in list(state) if name.startswith(key)]
        else:
            state[key] = value
    save_file(state, path / "model.safetensors")
    return zoo.load(path)
