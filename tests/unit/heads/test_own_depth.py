"""Depth Anything's head inside its checkpoint: what transformers computes, under either library's keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgekit.errors import DataError, RecipeError
from edgekit.heads.own import family_of, own_heads, remarks, unknown
from edgekit.models import zoo
from tests.support.depth_anything import depth_model, official_depth_keys
from tests.support.own_heads import SIZES, assert_equal, broken, classifier, heads_of, outputs, pixels, published

METRIC = {"depth_estimation_type": "metric", "max_depth": 80}


@SIZES
@pytest.mark.parametrize(
    "given",
    [{}, METRIC, {"out_indices": [3, 4, 5, 6]}, {"apply_layernorm": False}],
    ids=["relative", "metric", "v1", "unnormed"],
)
def test_depth_anything_of_hugging_face_computes_what_transformers_computes(given, size, tmp_path: Path):
    theirs = depth_model(**given)
    theirs.save_pretrained(tmp_path)
    loaded = zoo.load(tmp_path)
    head = heads_of(loaded)["predicted_depth"]
    assert head.task == ("depth" if "max_depth" in given else "relative depth")
    with torch.no_grad():
        assert_equal(outputs(loaded, size)["predicted_depth"], theirs(pixels(size)).predicted_depth)
    assert not any("assumed" in line for line in remarks({"predicted_depth": "model"}, loaded))
    assert family_of(loaded) == f"Depth Anything {'V1' if 'out_indices' in given else 'V2'} of width 128"


@SIZES
@pytest.mark.parametrize(
    ("name", "said", "given"),
    [
        ("depth_anything_v2_vits.pth", "", {}),
        ("depth_anything_v2_metric_hypersim_vits.pth", "", {"depth_estimation_type": "metric", "max_depth": 20}),
        ("depth_anything_v2_metric_vkitti_vits.pth", "", METRIC),
        ("depth_anything_vits14.pth", "", {"out_indices": [3, 4, 5, 6]}),
        ("mine.safetensors", ":v1", {"out_indices": [3, 4, 5, 6]}),
        ("mine.ckpt", ":vkitti", METRIC),
    ],
)
def test_depth_anything_with_official_keys_is_what_its_name_or_the_user_says(name, said, given, size, tmp_path: Path):
    theirs = depth_model(**given)
    state = official_depth_keys(published(theirs, tmp_path))
    state |= {f"depth_head.scratch.refinenet4.resConfUnit1.conv1.{kind}": torch.ones(1) for kind in ("weight", "bias")}
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    loaded = zoo.load(tmp_path / name)
    assert loaded.model.config.interpolation == "offset"
    loaded.model.config = replace(loaded.model.config, interpolation="size")  # as transformers has it
    asked = {"predicted_depth": f"model{said}"}
    with torch.no_grad():
        assert_equal(outputs(loaded, size, **asked)["predicted_depth"], theirs(pixels(size)).predicted_depth)
    assert unknown(loaded) == {}
    assert len([line for line in remarks(asked, loaded) if f"taken as {said[1:]}" in line]) == bool(said)


def test_what_keys_of_depth_anything_do_not_tell_is_said(tmp_path: Path):
    state = official_depth_keys(published(depth_model(), tmp_path))
    torch.save(state, tmp_path / "mine.pth")
    loaded = zoo.load(tmp_path / "mine.pth")
    line = next(
        line for line in remarks({"predicted_depth": "model"}, loaded) if line.startswith("head predicted_depth")
    )
    assert "blocks 0, 2, 3, 5" in line
    for word in ("assumed", "model:v1", "model:hypersim", "model:vkitti"):
        assert word in line
    with pytest.raises(DataError, match="no kind of Depth Anything"):
        heads_of(loaded, predicted_depth="model:v9")
    torch.save(state, tmp_path / "depth_anything_v2_metric_vits.pth")
    with pytest.raises(DataError, match="range is not known"):
        heads_of(zoo.load(tmp_path / "depth_anything_v2_metric_vits.pth"))
    classifier(registers=False).save_pretrained(tmp_path / "cls")
    with pytest.raises(RecipeError, match="has no kinds"):
        heads_of(zoo.load(tmp_path / "cls"), logits="model:v1")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"head.": None}, "depth head lacks 6 tensors"),
        ({"neck.": None}, "names a DepthAnythingForDepthEstimation, the file has no whole head"),
        ({"neck.convs.": None}, "depth head lacks 4 tensors"),
        ({"neck.fusion_stage.layers.1.residual_layer2.convolution1.bias": None}, "resConfUnit2.conv1.bias"),
        ({"neck.convs.2.weight": torch.ones(16, 8, 3, 3)}, "do not fit together"),
        ({"neck.reassemble_stage.layers.0.projection.weight": torch.ones(8, 64, 1, 1)}, "tokens of width 64"),
        ({"head.conv1.weight": torch.ones(16)}, "do not fit together"),
    ],
)
def test_a_depth_head_that_is_incomplete_or_does_not_fit_is_refused(change, what: str, tmp_path: Path):
    depth_model().save_pretrained(tmp_path)
    loaded = broken(tmp_path, change)
    with pytest.raises(DataError, match=what) as refused:
        heads_of(loaded)
    assert "--heads none" in refused.value.fix


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"reassemble_factors": [2, 2, 1, 0.5]}, "reassemble_factors"),
        ({"backbone_config": {"num_attention_heads": 2, "out_indices": [0, 2, 4, 6]}}, "stages"),
        ({"backbone_config": {"num_attention_heads": 2, "out_features": ["stage1", "stage9"]}}, "stages"),
        ({"depth_estimation_type": "ordinal"}, "ordinal"),
        ({"max_depth": "far"}, "max_depth"),
    ],
)
def test_a_depth_config_that_cannot_be_followed_is_refused(given, what: str, tmp_path: Path):
    depth_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | given))
    with pytest.raises(DataError, match=what):
        heads_of(zoo.load(tmp_path))


def test_a_depth_head_with_batch_norm_is_left_out_whole(tmp_path: Path):
    state = official_depth_keys(published(depth_model(), tmp_path))
    state["depth_head.scratch.refinenet1.resConfUnit1.bn1.weight"] = torch.ones(16)
    torch.save(state, tmp_path / "depth_anything_v2_vits.pth")
    loaded = zoo.load(tmp_path / "depth_anything_v2_vits.pth")
    assert own_heads(loaded) == {}
    assert [*unknown(loaded)] == ["depth_head"]


def test_taps_given_as_features_or_counted_from_the_end_are_the_same(tmp_path: Path):
    depth_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for taps in ({"out_features": ["stage1", "stage3", "stage4", "stage6"]}, {"out_indices": [-6, -4, -3, -1]}):
        backbone = {key: value for key, value in config["backbone_config"].items() if not key.startswith("out_")}
        (tmp_path / "config.json").write_text(json.dumps(config | {"backbone_config": backbone | taps}))
        assert heads_of(zoo.load(tmp_path))["predicted_depth"].layers == (0, 2, 3, 5)
