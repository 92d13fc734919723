"""Heads as programs against torch modules with the official parameter names, and files that are no such heads."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgekit.errors import DataError, RecipeError
from edgekit.graph.torch_emitter import run_with_heads
from edgekit.heads.read import read_head, read_heads
from edgekit.heads.saliency import SaliencyHead, SaliencyProgram
from edgekit.heads.segmentation import LinearSegmenter
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.models.zoo import LoadedModel
from edgekit.surgery.fold_layerscale import fold_layerscale
from edgekit.surgery.rotate import mean_preserving_rotation, rotate
from tests.support import official_heads as official
from tests.support.models import TINY_REG

SIZE = (70, 56)  # 5 x 4 patches
CONFIG = replace(TINY_REG, depth=6)
DEPTH_BLOCKS = [0, 2, 3, 5]
WIDTH = CONFIG.width

MODULES: dict[str, tuple[Callable[[], nn.Module], str, bool]] = {  # module, file name, keys under "decode_head."
    "cls1": (lambda: official.Classifier(WIDTH, 1, 7), "linear.pth", False),
    "cls4": (lambda: official.Classifier(WIDTH, 4, 7), "linear4.pth", False),
    "seg": (lambda: official.Segmenter(WIDTH, 1, 5), "ade20k_linear.pth", True),
    "seg_ms": (lambda: official.Segmenter(WIDTH, 4, 5), "ade20k_ms.pth", True),
    "depth1": (lambda: official.LinearDepther(WIDTH, [5], 16, 10), "nyu_linear.pth", True),
    "depth4": (lambda: official.LinearDepther(WIDTH, DEPTH_BLOCKS, 16, 80), "KITTI_linear4.pth", True),
    "dpt": (lambda: official.Dpt(WIDTH, DEPTH_BLOCKS, 16, [8, 16, 24, 32]), "nyu_dpt.pth", True),
}


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    return random_model(CONFIG).bake(*SIZE)


def pixels(size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def expected_of(module: nn.Module, model: VisionTransformer, size: tuple[int, int] = SIZE) -> np.ndarray:
    return module.run(model, pixels(size)).numpy()


@pytest.mark.parametrize("name", MODULES)
def test_a_head_computes_what_its_official_module_computes(name: str, model: VisionTransformer, tmp_path: Path):
    make, filename, nested = MODULES[name]
    module = official.randomised(make())
    state = {f"decode_head.{key}": value for key, value in module.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"epoch": 1}} if nested else module.state_dict(), tmp_path / filename)
    head = read_head(tmp_path / filename, CONFIG)
    expected = expected_of(module, model)
    actual = run_with_heads(model, {"head": head}, pixels().numpy())["head"]
    assert actual.shape == expected.shape == (2, *head.shape(model.config.grid))
    assert expected.std() > 0.01
    assert not np.allclose(expected[0], expected[1], rtol=1e-3)  # it sees the picture
    assert np.abs(actual - expected).max() < 2e-4 * max(1, np.abs(expected).max())


def test_dpt_on_an_even_grid(tmp_path: Path):
    size = (56, 84)
    model = random_model(CONFIG).bake(*size)
    module = official.randomised(MODULES["dpt"][0]())
    save_file(module.state_dict(), tmp_path / "dpt.safetensors")
    actual = run_with_heads(model, {"depth": read_head(tmp_path / "dpt.safetensors", CONFIG)}, pixels(size).numpy())
    expected = expected_of(module, model, size)
    assert np.abs(actual["depth"] - expected).max() < 2e-4 * np.abs(expected).max()


def test_neighbours_vote_with_the_softmax_of_their_cosines(model: VisionTransformer, tmp_path: Path):
    features = run_with_heads(model, {}, pixels().numpy())["pooler_output"].astype(np.float64)
    rng = np.random.default_rng(0)
    gallery = np.concatenate([features + 0.4 * features.std() * rng.standard_normal(features.shape) for _ in range(9)])
    labels = rng.integers(0, 3, len(gallery))
    save_file(
        {"gallery": torch.from_numpy(gallery).float(), "labels": torch.from_numpy(labels)}, tmp_path / "g.safetensors"
    )
    head = read_head(tmp_path / "g.safetensors", CONFIG)
    votes = run_with_heads(model, {"cls": head}, pixels().numpy())["cls"]
    for vote, feature in zip(votes, features, strict=True):
        cosines = gallery @ feature / np.linalg.norm(gallery, axis=1) / np.linalg.norm(feature)
        weights = np.exp((cosines - cosines.max()) / 0.07)
        expected = np.bincount(labels, weights / weights.sum(), minlength=3)
        assert np.abs(vote - expected).max() < 1e-4
        assert expected.max() < 0.99  # otherwise one neighbour decides and T does not matter


def test_the_saliency_program_computes_what_the_decoder_computes(model: VisionTransformer):
    torch.manual_seed(0)
    decoder = SaliencyHead(WIDTH, (16, 8, 4), 14).eval()
    official.randomised(decoder)
    outputs = run_with_heads(model, {"saliency": SaliencyProgram.of(decoder, CONFIG)}, pixels().numpy())
    expected = decoder.predict(outputs["last_hidden_state"], model.config.grid)
    assert expected.std() > 0.002
    assert np.abs(outputs["saliency"] - expected).max() < 1e-5


def test_heads_see_the_official_channels_of_a_rotated_model(model: VisionTransformer):
    module = official.randomised(MODULES["seg_ms"][0]())
    head = LinearSegmenter.from_state({key: value.numpy() for key, value in module.state_dict().items()}, CONFIG)
    rotated = deepcopy(model)
    fold_layerscale(rotated)
    rotate(rotated, mean_preserving_rotation(WIDTH))
    expected, actual = (run_with_heads(m, {"seg": head}, pixels().numpy())["seg"] for m in (model, rotated))
    assert np.abs(actual - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("name", MODULES)
def test_a_head_of_another_width_is_refused(name: str, tmp_path: Path):
    make, filename, _ = MODULES[name]
    torch.save(make().state_dict(), tmp_path / filename)
    with pytest.raises(DataError, match=r"(features|channels|width)") as refused:
        read_head(tmp_path / filename, replace(CONFIG, width=192, heads=3))
    assert filename in refused.value.what
    assert "192" in refused.value.why or "384" in refused.value.why


@pytest.mark.parametrize("missing", ["bn.running_var", "conv_seg.bias"])
def test_a_head_without_one_of_its_tensors_is_refused(missing: str, tmp_path: Path):
    state = official.Segmenter(WIDTH, 1, 5).state_dict()
    del state[missing]
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(DataError, match=missing):
        read_head(tmp_path / "head.pth", CONFIG)


def test_a_dpt_without_one_of_its_convolutions_is_refused(tmp_path: Path):
    state = MODULES["dpt"][0]().state_dict()
    del state["fusion_blocks.2.res_conv_unit1.conv2.conv.weight"]
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(DataError, match=r"fusion_blocks\.2\.res_conv_unit1\.conv2\.conv\.weight"):
        read_head(tmp_path / "head.pth", CONFIG)


def test_a_head_whose_tensors_do_not_fit_each_other_is_refused(tmp_path: Path):
    for name, key in (("dpt", "project.conv.weight"), ("seg", "bn.weight"), ("cls1", "bias")):
        state = MODULES[name][0]().state_dict()
        state[key] = state[key][:-1]
        torch.save(state, tmp_path / f"{name}.pth")
        with pytest.raises(DataError, match="do not fit together"):
            read_head(tmp_path / f"{name}.pth", CONFIG)


def test_a_damaged_file_a_missing_one_and_a_file_of_other_tensors_are_refused(tmp_path: Path):
    whole = tmp_path / "head.pth"
    torch.save(official.Segmenter(WIDTH, 1, 5).state_dict(), whole)
    for suffix in (".pth", ".safetensors"):
        (tmp_path / f"cut{suffix}").write_bytes(whole.read_bytes()[:700])
        with pytest.raises(DataError, match="cannot be read"):
            read_head(tmp_path / f"cut{suffix}", CONFIG)
    with pytest.raises(DataError, match="there is no head"):
        read_head(tmp_path / "none.pth", CONFIG)
    torch.save({"fc1.weight": torch.ones(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match="no head that edgekit knows") as refused:
        read_head(tmp_path / "other.pth", CONFIG)
    assert "fc1.weight" in refused.value.why


def test_names_of_outputs_and_heads_that_a_model_does_not_bring_are_refused(model: VisionTransformer):
    loaded = LoadedModel(name="tiny", model=model, source="", licence="", origin="", sha256="")
    for name in ("pooler_output", "pixel_values", "cls_token", "not a name"):
        with pytest.raises(RecipeError, match="cannot be the name"):
            read_heads({name: "head.pth"}, loaded)
    with pytest.raises(RecipeError, match="brings no head called 'saliency'"):
        read_heads({"saliency": "model"}, loaded)
