"""Depth Anything: random models of transformers, and their tensors under the keys of the official files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from edgekit.models.depth_anything import taps_of

if TYPE_CHECKING:
    from transformers import DepthAnythingConfig


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


@dataclass(frozen=True)
class Size:
    """The shapes of a Depth Anything: of its encoder, and the channels of its head."""

    width: int
    depth: int
    heads: int
    maps: tuple[int, int, int, int]
    channels: int
    image: int = 518  # pixels that the table of positions covers


TINY = Size(128, 6, 2, (8, 16, 24, 32), 16, image=70)  # of whose blocks version 2 reads 0, 2, 3, 5
SIZES = {
    "small": Size(384, 12, 6, (48, 96, 192, 384), 64),
    "base": Size(768, 12, 12, (96, 192, 384, 768), 128),
    "large": Size(1024, 24, 16, (256, 512, 1024, 1024), 256),
}


def depth_config(size: Size = TINY, **given: Any) -> DepthAnythingConfig:
    """transformers' description of a model of that size; `given` are further fields of it, or of its backbone."""
    from transformers import DepthAnythingConfig, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=size.width,
        num_attention_heads=size.heads,
        num_hidden_layers=size.depth,
        image_size=size.image,
        patch_size=14,
        out_indices=given.pop("out_indices", [block + 1 for block in taps_of("v2", size.depth)]),
        reshape_hidden_states=False,
        apply_layernorm=given.pop("apply_layernorm", True),
    )
    return DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=size.width,
        neck_hidden_sizes=[*size.maps],
        fusion_hidden_size=size.channels,
        **given,
    )


def depth_model(size: Size = TINY, **given: Any) -> nn.Module:
    """Random weights; the last convolution ends above zero, or the ReLU hides all."""
    from transformers import DepthAnythingForDepthEstimation

    model = shaken(DepthAnythingForDepthEstimation(depth_config(size, **given)))
    with torch.no_grad():
        model.head.conv3.bias.fill_(1.0)
    return model


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
