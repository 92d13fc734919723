"""Heads inside checkpoints: found by their keys, computed as their own library does, left out only with a line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
)

from edgekit.errors import DataError, RecipeError
from edgekit.graph.torch_emitter import run_with_heads
from edgekit.heads.own import described_by, family_of, own_heads, remarks, unknown, wanted_heads
from edgekit.heads.read import read_heads
from edgekit.models import zoo
from edgekit.models.vit import ViTConfig, random_model
from edgekit.models.zoo import LoadedModel
from tests.support import official_heads as official
from tests.support.depth_anything import depth_model, official_depth_keys, shaken
from tests.support.models import TINY, TINY_REG
from tests.support.pixels import noise

SIZES = pytest.mark.parametrize("size", [(70, 70), (56, 84)], ids=["square", "wide"])
pixels = partial(noise, seed=1)
WIDTH = 128
NAMES = ("cat", "dog", "Vögel")
METRIC = {"depth_estimation_type": "metric", "max_depth": 80}
FOUR = {"classifier.weight": torch.ones(4, 2 * WIDTH), "classifier.bias": torch.ones(4)}
DEEP = replace(TINY, arch="deep", depth=6)


def classifier(*, registers: bool) -> nn.Module:
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    shape = {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 70, "patch_size": 14}
    if registers:
        config = Dinov2WithRegistersConfig(**shape, **labels, num_register_tokens=4)
        return shaken(Dinov2WithRegistersForImageClassification(config))
    return shaken(Dinov2ForImageClassification(Dinov2Config(**shape, **labels)))


def heads_of(loaded: LoadedModel, **asked: str) -> dict[str, object]:
    return read_heads(wanted_heads(asked, True, loaded), loaded)


def outputs(loaded: LoadedModel, size: tuple[int, int], **asked: str) -> dict[str, np.ndarray]:
    return run_with_heads(loaded.model.bake(*size), heads_of(loaded, **asked), pixels(size).numpy())


def assert_equal(actual: np.ndarray, expected: Tensor) -> None:
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    assert expected.std() > 1e-3 * np.abs(expected).max()
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


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
    state = official_depth_keys(_published(theirs, tmp_path))
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


def _published(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The state under the names of published files, which differ from those in memory."""
    model.save_pretrained(folder / "published")
    return load_file(folder / "published" / "model.safetensors")


def test_what_keys_of_depth_anything_do_not_tell_is_said(tmp_path: Path):
    state = official_depth_keys(_published(depth_model(), tmp_path))
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


def broken(path: Path, change: Mapping[str, Tensor | None]) -> LoadedModel:
    state = load_file(path / "model.safetensors")
    for key, value in change.items():
        if value is None:
            assert [state.pop(name) for name in list(state) if name.startswith(key)]
        else:
            state[key] = value
    save_file(state, path / "model.safetensors")
    return zoo.load(path)


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
    state = official_depth_keys(_published(depth_model(), tmp_path))
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


def depth_state(config: ViTConfig) -> dict[str, Tensor]:
    """Half of a depth head is enough to know whose it is."""
    model = random_model(replace(config, depth=4, grid=(2, 2)))
    state = {f"pretrained.{key}": value for key, value in model.state_dict().items()}
    return state | {"depth_head.projects.0.weight": torch.ones(8, config.width, 1, 1)}


@pytest.mark.parametrize(
    ("width", "licence"), [(384, "Apache-2.0"), (768, "CC-BY-NC-4.0"), (1024, "CC-BY-NC-4.0"), (192, "unknown")]
)
def test_the_licence_of_depth_anything_goes_by_its_size(width: int, licence: str, tmp_path: Path):
    save_file(depth_state(ViTConfig("", width, 4, width // 64)), tmp_path / "model.safetensors")
    loaded = zoo.load(tmp_path / "model.safetensors")
    assert loaded.licence.startswith(licence)
    assert "Depth Anything V2" in loaded.origin
    assert any(licence in line for line in remarks({}, loaded))
    assert any("not for commercial use" in line for line in remarks({}, loaded)) == ("NC" in licence)


@pytest.mark.parametrize(
    ("file", "text", "licence"),
    [
        ("README.md", "---\nlicense: mit\ntags:\n- depth\n---\n# Mine\n", "MIT"),
        ("README.md", "---\nlicense: other\nlicense_name: my-terms\n---\n", "my-terms"),
        ("LICENSE", "                  Apache License\n          Version 2.0, January 2004\n", "Apache-2.0"),
        ("LICENSE.txt", "All rights are mine.\n", "see LICENSE.txt of its folder"),
        ("config.json", '{"num_attention_heads": 12, "license": "apache-2.0"}', "Apache-2.0"),
        ("config.json", '{"num_attention_heads": 12, "pretrained_cfg": {"license": "cc-by-4.0"}}', "CC-BY-4.0"),
    ],
)
def test_a_licence_that_the_folder_states_is_never_overruled(file: str, text: str, licence: str, tmp_path: Path):
    save_file(depth_state(ViTConfig("", 768, 4, 12)), tmp_path / "model.safetensors")
    (tmp_path / file).write_text(text)
    loaded = zoo.load(tmp_path)
    assert loaded.licence == licence
    assert not any("not for commercial use" in line for line in remarks({}, loaded))


def test_a_licence_in_the_header_of_the_file_is_never_overruled(tmp_path: Path):
    state = depth_state(ViTConfig("", 768, 4, 12))
    save_file(state, tmp_path / "model.safetensors", metadata={"license": "mit"})
    assert zoo.load(tmp_path / "model.safetensors").licence == "MIT"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    assert zoo.load(tmp_path).licence == "MIT"


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
    state = {f"model.{key}": value for key, value in _published(theirs, tmp_path).items()}
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


def test_relative_depth_drifts_in_percent_of_its_range():
    from edgekit.measure.heads import measure_head_drift

    reference = np.stack([np.linspace(0, 10, 12).reshape(3, 4), np.linspace(5, 5.5, 12).reshape(3, 4)])
    found = measure_head_drift(
        "predicted_depth", "relative depth", reference, reference + np.array([0.1, 0.01])[:, None, None]
    )
    assert (found.measure, found.unit) == ("MAE", "% of range")
    assert found.value.value == pytest.approx((1.0 + 2.0) / 2)
