"""Checkpoints that bring a head, as their own libraries write them, and what edgekit makes of the head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
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
from tests.support.pixels import noise

SIZES = pytest.mark.parametrize("size", [(70, 70), (56, 84)], ids=["square", "wide"])
WIDTH = 128
NAMES = ("cat", "dog", "Vögel")
pixels = partial(noise, seed=1)


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters of the size that trained ones have, so that every one of them matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "lambda1" in name or ("norm" in name and name.endswith("weight")):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim >= 2 and "token" not in name and "position" not in name:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise)
    return module.eval()


def classifier(*, registers: bool) -> nn.Module:
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    shape = {"hidden_size": WIDTH, "num_attention_heads": 2, "num_hidden_layers": 2, "image_size": 70, "patch_size": 14}
    if registers:
        config = Dinov2WithRegistersConfig(**shape, **labels, num_register_tokens=4)
        return shaken(Dinov2WithRegistersForImageClassification(config))
    return shaken(Dinov2ForImageClassification(Dinov2Config(**shape, **labels)))


def depth_model(**given: object) -> nn.Module:
    """Six blocks, of which version 2 reads 0, 2, 3, 5; its last convolution ends above zero, or the ReLU hides all."""
    backbone = Dinov2Config(
        hidden_size=WIDTH,
        num_attention_heads=2,
        num_hidden_layers=6,
        image_size=70,
        patch_size=14,
        out_indices=given.pop("out_indices", [1, 3, 4, 6]),
        reshape_hidden_states=False,
        apply_layernorm=given.pop("apply_layernorm", True),
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=WIDTH,
        neck_hidden_sizes=[8, 16, 24, 32],
        fusion_hidden_size=16,
        **given,
    )
    model = shaken(DepthAnythingForDepthEstimation(config))
    with torch.no_grad():
        model.head.conv3.bias.fill_(1.0)
    return model


def published(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The state under the names of published files, which differ from those in memory."""
    model.save_pretrained(folder / "published")
    return load_file(folder / "published" / "model.safetensors")


def official_depth_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names of a Hugging Face state, written out by hand: an independent statement of the mapping."""
    theirs: dict[str, Tensor] = {}
    blocks: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("backbone."):
            key = key.removeprefix("backbone.")  # noqa: PLW2901
            if ".attention.attention." in key:
                block, part = key.removeprefix("encoder.layer.").split(".attention.attention.")
                name, kind = part.split(".")
                blocks.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[name] = value
                continue
            for old, new in (
                ("embeddings.position_embeddings", "pos_embed"),
                ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
                ("embeddings.", ""),
                ("encoder.layer.", "blocks."),
                ("attention.output.dense", "attn.proj"),
                ("layer_scale1.lambda1", "ls1.gamma"),
                ("layer_scale2.lambda1", "ls2.gamma"),
                ("layernorm.", "norm."),
            ):
                key = key.replace(old, new)  # noqa: PLW2901
            theirs[f"pretrained.{key}"] = value
            continue
        words = key.split(".")
        kind = words[-1]
        match words[:3]:
            case ["neck", "reassemble_stage", _]:
                part = {"projection": "projects", "resize": "resize_layers"}[words[4]]
                theirs[f"depth_head.{part}.{words[3]}.{kind}"] = value
            case ["neck", "convs", number]:
                theirs[f"depth_head.scratch.layer{int(number) + 1}_rn.{kind}"] = value
            case ["neck", "fusion_stage", _]:
                part = ".".join(words[4:-1]).replace("residual_layer", "resConfUnit").replace("convolution", "conv")
                part = part.replace("projection", "out_conv")
                theirs[f"depth_head.scratch.refinenet{4 - int(words[3])}.{part}.{kind}"] = value
            case ["head", name, _]:
                part = {"conv1": "output_conv1", "conv2": "output_conv2.0", "conv3": "output_conv2.2"}[name]
                theirs[f"depth_head.scratch.{part}.{kind}"] = value
    for key, parts in blocks.items():
        theirs[f"pretrained.{key}"] = torch.cat([parts[name] for name in ("query", "key", "value")])
    return {key: value.clone() for key, value in theirs.items()}


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
