"""Heads inside checkpoints: found by their keys, computed as their own library does, left out only with a line."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekit.errors import DataError, RecipeError
from edgekit.heads.own import described_by, own_heads, remarks, unknown, wanted_heads
from edgekit.heads.read import read_heads
from edgekit.models import zoo
from edgekit.models.vit import random_model
from edgekit.models.zoo import LoadedModel
from tests.support import official_heads as official
from tests.support.models import TINY, TINY_REG
from tests.support.own_heads import (
    NAMES,
    SIZES,
    WIDTH,
    assert_equal,
    broken,
    classifier,
    heads_of,
    outputs,
    pixels,
    published,
)

FOUR = {"classifier.weight": torch.ones(4, 2 * WIDTH), "classifier.bias": torch.ones(4)}
DEEP = replace(TINY, arch="deep", depth=6)


@SIZES
@pytest.mark.parametrize("registers", [False, True], ids=["plain", "registers"])
def test_a_classifier_of_hugging_face_is_built_with_its_head(registers: bool, size, tmp_path: Path):
    theirs = classifier(registers=registers)
    theirs.save_pretrained(tmp_path)
    loaded = zoo.load(tmp_path)
    head = heads_of(loaded)["logits"]
    assert head.classes == NAMES
    with torch.no_grad():
        assert_equal(outputs(loaded, size)["logits"], theirs(pixels(size)).logits)
    alone = zoo.load(tmp_path / "model.safetensors")  # keys tell all but the names
    assert heads_of(alone)["logits"].classes == ()
    assert described_by(alone, "logits") == "classifier of Hugging Face, 3 classes"


@pytest.mark.parametrize("wrapped", ["", "state_dict.model.", "state_dict.module."])
@pytest.mark.parametrize("pool", ["token", "avg", "fc_norm", "fc_norm_token"])
def test_a_classifier_of_timm_pools_as_its_keys_and_config_say(pool: str, wrapped: str, tmp_path: Path):
    model = random_model(TINY_REG)
    rng = torch.Generator().manual_seed(3)
    head = nn.Linear(WIDTH, 5)
    norm = nn.LayerNorm(WIDTH, eps=1e-6)
    with torch.no_grad():
        for parameter in (*head.parameters(), *norm.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    state = dict(model.state_dict()) | {f"head.{key}": value for key, value in head.state_dict().items()}
    if pool.startswith("fc_norm"):
        state = {key: value for key, value in state.items() if not key.startswith("norm.")}
        state |= {f"fc_norm.{key}": value for key, value in norm.state_dict().items()}
    tree: dict[str, object] = {}
    for key, value in state.items():
        tree[wrapped.removeprefix("state_dict.") + key] = value
    torch.save({"state_dict": tree, "epoch": 3} if wrapped else tree, tmp_path / "weights.ckpt")
    said = {"avg": "avg", "fc_norm_token": "token"}.get(pool)
    config = {"architecture": "vit_small_patch14_reg4_dinov2", "label_names": [*"abcde"]}
    (tmp_path / "config.json").write_text(json.dumps(config | ({"global_pool": said} if said else {})))
    loaded = zoo.load(tmp_path)
    x = pixels((70, 70))
    with torch.no_grad():
        tokens = model.embed(x)
        for block in model.blocks:
            tokens = block(tokens)
        match pool:
            case "token":
                pooled = model.norm(tokens)[:, 0]
            case "avg":
                pooled = model.norm(tokens)[:, 5:].mean(1)
            case "fc_norm":
                pooled = norm(tokens[:, 5:].mean(1))
            case _:
                pooled = norm(tokens[:, 0])
        assert_equal(outputs(loaded, (70, 70))["logits"], head(pooled))
    assert heads_of(loaded)["logits"].classes == tuple("abcde")
    assert unknown(loaded) == {}
    assert any("fc_norm" in line for line in remarks({"logits": "model"}, loaded)) == pool.startswith("fc_norm")


@pytest.mark.parametrize("layers", [1, 4])
def test_the_official_linear_classifier_comes_with_its_backbone(layers: int, tmp_path: Path):
    model = random_model(DEEP)
    head = official.randomised(official.Classifier(WIDTH, layers, 7))
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    torch.save(state | {f"linear_head.{key}": value for key, value in head.state_dict().items()}, tmp_path / "lc.pth")
    loaded = zoo.load(tmp_path / "lc.pth")
    with torch.no_grad():
        assert_equal(outputs(loaded, (70, 70))["logits"], head.run(model.bake(70, 70), pixels((70, 70))))


@pytest.mark.parametrize("kind", ["seg", "depth", "dpt"])
def test_official_decode_heads_come_with_their_backbone(kind: str, tmp_path: Path):
    model = random_model(DEEP)
    module, name = {
        "seg": (official.Segmenter(WIDTH, 1, 5), "logits"),
        "depth": (official.LinearDepther(WIDTH, [5], 16, 80), "predicted_depth"),
        "dpt": (official.Dpt(WIDTH, [0, 2, 3, 5], 16, [8, 16, 24, 32]), "predicted_depth"),
    }[kind]
    module = official.randomised(module)
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    state |= {f"decode_head.{key}": value for key, value in module.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "kitti.pth")
    loaded = zoo.load(tmp_path / "kitti.pth")
    with torch.no_grad():
        expected = module.run(model.bake(70, 56), pixels((70, 56)))
    actual = outputs(loaded, (70, 56))[name]
    assert np.abs(actual - expected.numpy()).max() < 2e-4 * np.abs(expected.numpy()).max()
    state["decode_head.lateral_convs.0.weight"] = torch.ones(3, 3)  # of another head with the same last layer
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    other = zoo.load(tmp_path / "other.pth")
    assert own_heads(other) == {}
    assert "state_dict.decode_head" in unknown(other)


def test_what_edgekit_does_not_know_is_named_with_its_size_and_the_way_to_get_it(tmp_path: Path):
    model = random_model(TINY)
    state: dict[str, Tensor] = {f"model.backbone.{key}": value for key, value in model.state_dict().items()}
    state |= {
        "model.neck.0.weight": torch.ones(7, WIDTH),
        "model.neck.0.bias": torch.ones(7),
        "model.out.weight": torch.ones(3, 7),
    }
    state |= {"loss.steps": torch.tensor(4)}  # a counter is no head
    torch.save({"state_dict": state}, tmp_path / "mine.ckpt")
    loaded = zoo.load(tmp_path / "mine.ckpt")
    assert torch.equal(loaded.model.norm.weight, model.norm.weight)
    assert wanted_heads({}, True, loaded) == {}
    assert unknown(loaded) == {
        "state_dict.model.neck": "2 tensors, 903 parameters",
        "state_dict.model.out": "1 tensor, 21 parameters",
    }
    (line,) = remarks({}, loaded)
    for part in ("left out", "state_dict.model.neck.* (2 tensors, 903 parameters)", "--heads NAME=FILE"):
        assert part in line
    with pytest.raises(RecipeError, match="brings no head called 'logits'") as refused:
        heads_of(loaded, logits="model")
    assert "none that edgekit knows" in refused.value.why


def test_a_head_that_is_not_taken_is_named_with_the_flag_that_takes_it(tmp_path: Path):
    classifier(registers=False).save_pretrained(tmp_path)
    loaded = zoo.load(tmp_path)
    for asked, own in (({}, False), ({"seg": "seg.pth"}, True)):
        wanted = wanted_heads(asked, own, loaded)
        assert wanted == asked
        (line,) = remarks(wanted, loaded)
        assert "left out: classifier of Hugging Face (2 tensors, 771 parameters); --heads logits=model" in line
    assert remarks(wanted_heads({}, True, loaded), loaded) == ["head logits: classifier of Hugging Face"]


def test_the_demo_says_that_its_decoder_is_left_out(demo: LoadedModel):
    assert wanted_heads({}, True, demo) == {}
    (line,) = remarks({}, demo)
    assert line.startswith("left out: the checkpoint's saliency decoder (")
    assert line.endswith("--heads saliency=model builds it in")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"classifier.weight": torch.ones(3, WIDTH)}, r"classifier.weight has shape \(3, 128\)"),
        ({"classifier.weight": torch.ones(3)}, r"classifier.weight has shape \(3,\)"),
        ({"classifier.bias": torch.ones(1)}, r"classifier.bias has shape \(1,\)"),
        ({"classifier.weight": None}, "there is no classifier.weight"),
        ({"classifier.": None}, "names a Dinov2ForImageClassification, the file has no whole head"),
        (FOUR, "3 names of classes for a head of 4"),
        ({"classifier.weight": torch.full((3, 2 * WIDTH), torch.nan)}, "NaN"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused_but_not_the_backbone(change, what: str, tmp_path: Path):
    classifier(registers=False).save_pretrained(tmp_path)
    loaded = broken(tmp_path, change)
    with pytest.raises(DataError, match=what) as refused:
        heads_of(loaded)
    assert refused.value.fix
    assert read_heads(wanted_heads({}, False, loaded), loaded) == {}
    assert all("cannot be built" in described_by(loaded, name) for name in own_heads(loaded))


def test_blocks_with_more_than_dinov2s_are_refused(tmp_path: Path):
    """Norms of queries and keys, adapters: without them the file would compute something else."""
    state = dict(random_model(TINY).state_dict()) | {"blocks.1.attn.q_norm.weight": torch.ones(64)}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"blocks\.1\.attn\.q_norm\.weight"):
        zoo.load(tmp_path / "other.pth")


def test_placeholders_are_no_names_and_numbers_must_count_the_classes(tmp_path: Path):
    classifier(registers=False).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def classes(labels: dict[str, str]) -> tuple[str, ...]:
        (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": labels}))
        return heads_of(zoo.load(tmp_path))["logits"].classes

    assert classes({str(i): f"LABEL_{i}" for i in range(3)}) == ()
    assert classes({"2": "c", "0": "a", "1": "b"}) == ("a", "b", "c")
    for wrong in ({"0": "a", "1": "b", "3": "c"}, {"a": "0", "b": "1", "c": "2"}):
        with pytest.raises(DataError, match="id2label"):
            classes(wrong)


class Sneaky:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_ckpt_is_never_unpickled_beyond_tensors(tmp_path: Path):
    torch.save(
        {"state_dict": dict(random_model(TINY).state_dict()), "hyper": Sneaky(tmp_path / "run")}, tmp_path / "a.ckpt"
    )
    with pytest.raises(DataError, match="holds more than tensors"):
        zoo.load(tmp_path / "a.ckpt")
    assert not (tmp_path / "run").exists()
    pickle.loads(pickle.dumps(Sneaky(tmp_path / "run")))
    assert (tmp_path / "run").exists()  # it would have


def test_a_training_run_of_lightning_loads_with_its_model_and_its_head(tmp_path: Path):
    theirs = classifier(registers=True)
    state = {f"model.{key}": value for key, value in published(theirs, tmp_path).items()}
    torch.save(
        {
            "state_dict": state,
            "epoch": 3,
            "global_step": 700,
            "pytorch-lightning_version": "2.5.0",
            "loops": {"fit": {}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
            "hyper_parameters": {"lr": 1e-4},
            "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        },
        tmp_path / "last.ckpt",
    )
    loaded = zoo.load(tmp_path / "last.ckpt")
    with torch.no_grad():
        assert_equal(outputs(loaded, (56, 84))["logits"], theirs(pixels((56, 84))).logits)
    assert unknown(loaded) == {}
