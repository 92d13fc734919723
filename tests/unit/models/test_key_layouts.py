"""A key layout of its own: one row of the table, and such a checkpoint is loaded, named and built."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgekit.models import keys, zoo
from edgekit.models.checkpoint import load_checkpoint
from edgekit.models.keys import KeyLayout
from edgekit.models.vit import random_model
from edgekit.pipeline import build
from tests.support.models import TINY_REG, photographs

ODD = KeyLayout(
    "stem.kernel",
    tuple(
        (re.compile(pattern), replacement)
        for pattern, replacement in (
            (r"^stem\.kernel$", "patch_embed.proj.weight"),
            (r"^stem\.offset$", "patch_embed.proj.bias"),
            (r"^trunk_([0-9]+)_", r"blocks.\1."),
            (r"^first_token$", "cls_token"),
            (r"^places$", "pos_embed"),
        )
    ),
)


def odd(key: str) -> str:
    """The key of a tensor in the odd layout."""
    key = re.sub(r"^blocks\.([0-9]+)\.", r"trunk_\1_", key).replace("patch_embed.proj.weight", "stem.kernel")
    key = key.replace("patch_embed.proj.bias", "stem.offset").replace("pos_embed", "places")
    return key.replace("cls_token", "first_token")


def test_one_row_of_the_table_is_a_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keys.LAYOUTS, "odd", ODD)
    model = random_model(TINY_REG)
    state = {f"net.{odd(key)}": value.clone() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "odd.safetensors")
    read = load_checkpoint(tmp_path / "odd.safetensors")
    assert (read.layout, read.prefix, read.rest) == ("odd", "net.", {})
    assert read.config == replace(TINY_REG, arch=read.config.arch)
    assert all(torch.equal(read.tensors[key], value) for key, value in model.state_dict().items())
    assert zoo.load(tmp_path / "odd.safetensors").name == "odd.safetensors"
    photographs(tmp_path / "photographs", 8)
    settings = {"image_size": 56, "formats": "onnx", "precisions": "fp32,w8a8", "fused": False}
    settings |= {"dynamic_ranges": False, "calibration": tmp_path / "photographs"}
    result = build(tmp_path / "odd.safetensors", tmp_path / "out", measure="none", **settings)
    assert [(row.name, row.status) for row in result.manifest.artifacts] == [("onnx/fp32", "ok"), ("onnx/w8a8", "ok")]
