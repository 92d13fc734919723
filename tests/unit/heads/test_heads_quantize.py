"""Integers of heads: what is rounded and what the gate leaves float, and a plan that comes back as it was saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.errors import DataError
from edgekit.graph.emitter import Emitter, Grid, V
from edgekit.graph.heads import Head
from edgekit.graph.torch_emitter import run_with_heads
from edgekit.heads.saliency import SaliencyHead, SaliencyProgram
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.plan.heads import HeadPlan
from edgekit.plan.quant import StaticInput
from edgekit.quantization.heads import output_sqnr_db, quantize_heads
from tests.support import official_heads as official
from tests.support.models import TINY

SIZE = (56, 70)  # 4 x 5 patches


@dataclass(frozen=True)
class Decoder:
    """Two convolutions, the second on what the first puts out, and one of a single channel."""

    task = "saliency"
    layers = (0,)
    normed = True

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        rng, width = np.random.default_rng(3), TINY.width
        first, second, last = (
            rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
            for shape in ((16, width, 1, 1), (12, 16, 3, 3), (1, 12, 1, 1))
        )
        first[:, 0] = 0  # of no use
        bias = rng.standard_normal(16).astype(np.float32)
        x = e.conv(e.patch_map(layers[0]), first, bias, relu=True)
        x = e.conv(x, second, bias[:12], padding=1)
        return e.conv(e.activate(x, "relu"), last, bias[:1])

    def shape(self, grid: Grid) -> tuple[int, ...]:
        return grid


def images(n: int = 12) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 3, *SIZE), np.float32)


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> float:
    """What random weights reach: their outputs hardly differ from one noise image to the next."""
    monkeypatch.setattr("edgekit.quantization.heads.LEAST_SQNR_DB", 20.0)
    return 20.0


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    return random_model(TINY).bake(*SIZE)


def outputs(model: VisionTransformer, head: Head, plan: HeadPlan | None = None) -> torch.Tensor:
    found = run_with_heads(model, {"map": head}, images(4), plan)["map"]
    return torch.from_numpy(found.reshape(4, 1, -1))


def test_convolutions_are_rounded_where_they_read_and_write(model, limit: float):
    plan = quantize_heads(model, {"map": Decoder()}, images())
    first, second = plan.layers["heads.map.1"], plan.layers["heads.map.2"]
    assert set(plan.layers) == {"heads.map.1", "heads.map.2"}  # one channel is no work, and is what is read
    assert first.weight.dtype == np.int8
    assert first.weight.shape == (16, TINY.width, 1, 1)
    assert np.abs(first.weight).max(axis=(1, 2, 3)).min() >= 100  # the whole range is used
    assert first.output == second.input  # the same numbers: rounded once
    assert first.output is not None
    assert first.output.zero_point == 0  # its ReLU
    assert second.output is not None
    assert second.output.zero_point > 0
    wanted, found = outputs(model, Decoder()), outputs(model, Decoder(), plan)
    assert output_sqnr_db(wanted, found) > limit
    assert not torch.equal(wanted, found)
    assert plan.kept_float == {}
    assert plan.sqnr_db["map"] > limit


def test_fewer_bits_are_fewer_steps(model):
    plan = quantize_heads(model, {"map": Decoder()}, images(), bits=7)
    assert np.abs(plan.layers["heads.map.1"].weight).max() == 63


def test_the_gate_leaves_float_what_does_not_bear_rounding(model, limit: float):
    """A channel that is a hundred times larger, and of no use, takes all the steps of the quantizer."""
    spiked = random_model(TINY)
    with torch.no_grad():
        spiked.norm.bias[0] = 300.0
    spiked = spiked.bake(*SIZE)
    plan = quantize_heads(spiked, {"map": Decoder()}, images())
    assert plan.layers["heads.map.1"].input is None  # its weights alone are integers
    assert plan.layers["heads.map.2"].input is not None
    assert "input and output stay float" in plan.kept_float["heads.map.1"]
    assert plan.sqnr_db["map"] > limit
    assert output_sqnr_db(outputs(spiked, Decoder()), outputs(spiked, Decoder(), plan)) > limit
    assert any("heads.map.1" in note for note in plan.notes())


def test_linear_layers_have_integer_weights_alone(model):
    state = {
        key: value.numpy()
        for key, value in official.randomised(official.Classifier(TINY.width, 1, 9)).state_dict().items()
    }
    from edgekit.heads.classification import LinearClassifier

    plan = quantize_heads(model, {"cls": LinearClassifier.from_state(state, model.config)}, images())
    layer = plan.layers["heads.cls.1"]
    assert layer.input is None
    assert layer.output is None
    np.testing.assert_allclose(layer.dequantized(), state["weight"], atol=np.abs(state["weight"]).max() / 200)


def test_a_decoder_of_a_checkpoint_keeps_its_map(model, limit: float):
    decoder = official.randomised(SaliencyHead(TINY.width, (16, 12, 8), 14))
    assert isinstance(decoder, SaliencyHead)
    head = SaliencyProgram.of(decoder, model.config)
    plan = quantize_heads(model, {"map": head}, images())
    assert sum(layer.input is not None for layer in plan.layers.values()) >= 2
    assert output_sqnr_db(outputs(model, head), outputs(model, head, plan)) > limit


def test_a_plan_comes_back_as_it_was_saved(model, tmp_path: Path):
    path = tmp_path / "plan" / "heads.safetensors"
    plan = replace(quantize_heads(model, {"map": Decoder()}, images()), key="digest", kept_float={"heads.map.9": "why"})
    plan.save(path)
    back = HeadPlan.load(path)
    assert (back.key, back.kept_float, back.sqnr_db) == ("digest", {"heads.map.9": "why"}, plan.sqnr_db)
    assert back.layers.keys() == plan.layers.keys()
    for name, layer in plan.layers.items():
        same = back.layers[name]
        assert (same.input, same.output) == (layer.input, layer.output)
        assert isinstance(same.input, StaticInput)
        for part in ("weight", "weight_scale", "bias"):
            np.testing.assert_array_equal(getattr(same, part), getattr(layer, part))
    alone = back.weights_alone()
    assert all(layer.input is None and layer.output is None for layer in alone.layers.values())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="no readable plan of heads"):
        HeadPlan.load(path)
    with pytest.raises(DataError, match="no readable plan of heads"):
        HeadPlan.load(tmp_path / "nowhere")


def test_a_plan_of_another_schema_is_refused(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "heads.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(HeadPlan, "SCHEMA", "edgekit.heads/0")
        quantize_heads(model, {"map": Decoder()}, images()).save(path)
    with pytest.raises(DataError, match=r"its schema is 'edgekit\.heads/0'"):
        HeadPlan.load(path)


def test_the_same_images_give_the_same_plan(model):
    a, b = (quantize_heads(model, {"map": Decoder()}, images()) for _ in range(2))
    assert a.sqnr_db == b.sqnr_db
    np.testing.assert_array_equal(a.layers["heads.map.2"].weight, b.layers["heads.map.2"].weight)


def test_one_image_is_enough_to_run(model):
    assert quantize_heads(model, {"map": Decoder()}, images(1)).layers
