"""Families of checkpoints: timm's names and keys, the licence that goes with DINOv3, strangers by their names."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.support import matrix
from benchmarks.support.depth_model import huggingface_keys
from edgekit.bundle.write import _licence_of_weights
from edgekit.cli import main
from edgekit.errors import DataError
from edgekit.models import zoo
from edgekit.models.checkpoint import load_checkpoint, save_checkpoint
from edgekit.models.vit import random_model
from tests.support.depth_anything import depth_model
from tests.support.dinov2 import timm_state, timm_tokens
from tests.support.dinov3 import official_state, random_huggingface
from tests.support.models import TINY, TINY_REG, TINY_ROPE, TINY_SWIGLU

LICENCE = "# DINOv3 License\n\n*Last Updated: August 19, 2025*\n\nBy clicking ...\n"


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY, TINY_REG, TINY_SWIGLU], ids=lambda config: config.arch)
@pytest.mark.parametrize("size", [(42, 42), (84, 56)], ids=["42x42", "84x56"])
def test_timms_files_compute_what_timm_computes(config, size: tuple[int, int], tmp_path: Path) -> None:
    model = random_model(config)
    save_file({key: value.contiguous() for key, value in timm_state(model).items()}, tmp_path / "model.safetensors")
    described = {"architecture": "vit_tiny", "pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "license": "apache-2.0"}}
    (tmp_path / "config.json").write_text(json.dumps(described))
    loaded = load_checkpoint(tmp_path)
    assert loaded.config.interpolation == "antialias"
    assert loaded.licence == "Apache-2.0"
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    expected, found = timm_tokens(model, size, pixels), loaded.model().bake(*size)(pixels)[0]
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-4


def test_the_way_to_resize_positions_can_be_said(tmp_path: Path) -> None:
    state = random_model(TINY).state_dict()
    save_file(dict(state), tmp_path / "official.safetensors")
    save_file(timm_state(random_model(TINY)), tmp_path / "plain.safetensors")
    save_file(dict(state), tmp_path / "vit_small_patch14_dinov2.lvd142m.safetensors")
    found = {path.stem: zoo.load(path).model.config.interpolation for path in sorted(tmp_path.iterdir())}
    assert found == {"official": "offset", "plain": "antialias", "vit_small_patch14_dinov2.lvd142m": "antialias"}
    assert zoo.load(tmp_path / "plain.safetensors", interpolation="size").model.config.interpolation == "size"


@pytest.mark.parametrize("size", ["small", "base", "large", "giant"])
@pytest.mark.parametrize("registers", ["", "_reg4"])
def test_timms_names_are_known(size: str, registers: str) -> None:
    entry = zoo.find(f"vit_{size}_patch14{registers}_dinov2.lvd142m")
    described = entry.sources[0].describe().partition("@")[0]  # behind it a commit, where one is pinned
    assert described == f"hub:timm/vit_{size}_patch14{registers}_dinov2.lvd142m"
    assert entry.config.interpolation == "antialias"
    assert entry.config.registers == (4 if registers else 0)


def test_dinov3_is_never_fetched() -> None:
    entry = zoo.find("dinov3_vits16")
    assert (entry.family, entry.licence, entry.sources[0].cached()) == ("DINOv3", "DINOv3-License", None)
    with pytest.raises(DataError, match="not fetched by edgekit") as caught:
        zoo.load("dinov3_vits16")
    assert "--model FOLDER" in caught.value.fix


def test_weights_of_dinov3_come_with_their_licence(tmp_path: Path) -> None:
    file = tmp_path / "dinov3_vits16.safetensors"
    save_file({key: value.contiguous() for key, value in official_state(random_huggingface("mlp")).items()}, file)
    with pytest.raises(DataError, match="without its licence") as caught:
        zoo.load(file)
    assert str(tmp_path) in caught.value.fix
    (tmp_path / "LICENSE.md").write_text(LICENCE)
    loaded = zoo.load(file)
    assert (loaded.licence, loaded.licence_text) == ("DINOv3-License", LICENCE)
    model = {"licence": loaded.licence, "origin": loaded.origin, "licence_text": loaded.licence_text}
    assert LICENCE in _licence_of_weights(model)


def test_what_is_made_of_dinov3_keeps_its_licence(tmp_path: Path) -> None:
    model, file = random_model(TINY_ROPE), tmp_path / "student.safetensors"
    save_checkpoint(model, file, licence="DINOv3-License", licence_text=LICENCE)
    assert zoo.load(file).licence_text == LICENCE
    save_checkpoint(model, file, licence="DINOv3-License")
    with pytest.raises(DataError, match="without its licence"):
        zoo.load(file)
    save_checkpoint(model, file, licence="MIT", origin="trained from scratch")
    assert zoo.load(file).licence == "MIT"


def rf_detr(patch: int) -> dict[str, Tensor]:
    """Keys of RF-DETR's checkpoints: transformers' names of a DINOv2 inside the encoder of its backbone."""
    model = random_model(replace(TINY, patch=patch))
    backbone = {f"backbone.0.encoder.encoder.{key}": value for key, value in huggingface_keys(model).items()}
    return backbone | {"backbone.0.projector.stages.0.0.cv1.conv.weight": torch.zeros(4, 4, 1, 1)}


@pytest.mark.parametrize("patch", [14, 16])
@pytest.mark.parametrize("wrapped", [False, True], ids=["state", "with arguments"])
def test_rf_detr_is_refused_by_its_name_and_never_built_as_a_plain_dinov2(
    patch: int, wrapped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own files hold the arguments of a run beside the weights, as a type that is not unpickled."""
    state = rf_detr(patch)
    torch.save({"model": state, "args": Namespace(lr=1e-4)} if wrapped else state, tmp_path / "rf-detr-nano.pth")
    with pytest.raises(DataError, match="rf-detr-nano") as caught:
        load_checkpoint(tmp_path / "rf-detr-nano.pth")
    assert caught.value.why == "it looks like RF-DETR: its DINOv2 attends in windows"
    assert main(["inspect", str(tmp_path / "rf-detr-nano.pth")]) == 1
    assert "RF-DETR: its DINOv2 attends in windows" in capsys.readouterr().err


def test_a_checkpoint_is_inspected_with_family_size_heads_and_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depth_model().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["family"] == "Depth Anything V2 of width 128"
    assert said["parameters"] == load_checkpoint(tmp_path).config.parameters
    assert said["head predicted_depth"].endswith("relative depth from blocks 0, 2, 3, 5")
    assert said["licence"] == "Apache-2.0"


def test_models_says_what_is_measured_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    timed = {row.model for path in matrix.all_hosts() for row in matrix.read(path) if row.p50_ms}
    assert {name for name, row in rows.items() if "latency" in row["measured"]} == timed & rows.keys()
    assert rows["depth_anything_v2_vits"]["family"] == "Depth Anything V2"
    assert rows["depth_anything_v2_vits"]["size_mb"] == pytest.approx(99.2, abs=0.2)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("downsample_layers.0.0.weight", "ConvNeXt"),
        ("visual.conv1.weight", "CLIP"),
        ("layer4.0.conv1.weight", "ResNet"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", "Swin"),
    ],
)
def test_strangers_are_called_by_their_names(key: str, name: str, tmp_path: Path) -> None:
    save_file({key: torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="no DINOv2 or DINOv3 backbone") as caught:
        load_checkpoint(tmp_path / "model.safetensors")
    assert name in caught.value.why
