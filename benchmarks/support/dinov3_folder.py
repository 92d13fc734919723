"""Writes a model of DINOv3's architecture as Hugging Face does: a folder with config.json and model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.errors import ExportError
from edgekit.models.config import STATISTICS, ViTConfig
from edgekit.models.vit import VisionTransformer

_PARTS = (  # of a block: the official key, and transformers' name
    ("norm1", "norm1"),
    ("attn.proj", "attention.o_proj"),
    ("norm2", "norm2"),
    ("mlp.fc1", "mlp.up_proj"),
    ("mlp.fc2", "mlp.down_proj"),
    ("mlp.w3", "mlp.down_proj"),
)


def write_folder(model: VisionTransformer, folder: Path, *, licence: str) -> nn.Module:
    """Write a model with rotary positions, and give back the `DINOv3ViTModel` of transformers that was written.

    Args:
        model: not rewritten; its keys have no bias.
        folder: made if need be.
        licence: an SPDX name, for the model card.

    Raises:
        ExportError: learned positions, or keys with a bias, for which that layout has no place.
    """
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    config = model.config
    if config.positions != "rope":
        raise ExportError(f"{config.arch} has learned positions", why="DINOv3's layout has no place for them")
    theirs = DINOv3ViTModel(
        DINOv3ViTConfig(
            patch_size=config.patch,
            hidden_size=config.width,
            intermediate_size=config.ffn_hidden,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            num_register_tokens=config.registers,
            use_gated_mlp=config.ffn == "swiglu",
            hidden_act="silu" if config.ffn == "swiglu" else "gelu",
            layer_norm_eps=config.norm_eps,
            rope_theta=config.rope_base,
        )
    ).eval()
    state = huggingface_state(model)
    mine = {key.removeprefix("model."): key for key in theirs.state_dict()}  # as transformers 5 calls them in memory
    theirs.load_state_dict({mine[key]: value for key, value in state.items()}, strict=True)
    theirs.save_pretrained(folder)
    _describe(config, folder, licence)
    return theirs


def huggingface_state(model: VisionTransformer) -> dict[str, Tensor]:
    """The tensors of a model with rotary positions under the names of transformers' `DINOv3ViTModel`."""
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    made = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": state["mask_token"][None],
        "embeddings.register_tokens": state["register_tokens"],
        **{f"embeddings.patch_embeddings.{part}": state[f"patch_embed.proj.{part}"] for part in ("weight", "bias")},
        **{f"norm.{part}": state[f"norm.{part}"] for part in ("weight", "bias")},
    }
    for block in range(model.config.depth):
        old, new = f"blocks.{block}", f"layer.{block}"
        for mine, theirs in _PARTS:
            for part in ("weight", "bias"):
                if (key := f"{old}.{mine}.{part}") in state:
                    made[f"{new}.{theirs}.{part}"] = state[key]
        for part in ("weight", "bias"):
            for name, value in zip("qkv", state[f"{old}.attn.qkv.{part}"].chunk(3), strict=True):
                made[f"{new}.attention.{name}_proj.{part}"] = value
            if model.config.ffn == "swiglu":
                gate, up = state[f"{old}.mlp.w12.{part}"].chunk(2)
                made |= {f"{new}.mlp.gate_proj.{part}": gate, f"{new}.mlp.up_proj.{part}": up}
        if torch.any(made.pop(f"{new}.attention.k_proj.bias")):
            raise ExportError(f"the keys of block {block} have a bias", why="DINOv3's have none")
        for number in (1, 2):
            made[f"{new}.layer_scale{number}.lambda1"] = state[f"{old}.ls{number}.gamma"]
    return made


def _describe(config: ViTConfig, folder: Path, licence: str) -> None:
    """The preprocessing and the licence, in the files that edgekit reads them from."""
    mean, std = STATISTICS[config.normalization]
    described = {"image_mean": list(mean), "image_std": list(std)}
    (folder / "preprocessor_config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(f"---\nlicense: {licence.lower()}\n---\n", encoding="utf-8")
