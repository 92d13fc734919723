"""The architecture of tensors with official keys: a config is inferred from their shapes and a few hints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from torch import Tensor

from edgekit.errors import DataError
from edgekit.models.config import ARCHITECTURES, Interpolation, Normalization, Periods, ViTConfig, require_possible
from edgekit.models.keys import OfficialState
from edgekit.models.rope import periods_of

_ROPE_EPS = 1e-5  # of DINOv3's LayerNorms
_HEAD_DIM = 64  # of every official model; only a config can say otherwise, shapes cannot
_HEADS_OF_WIDTH = {1152: 16}  # of 72 channels: SO400M, the one shape of TIPSv2 that DINOv2 has not


def infer_config(official: OfficialState, hints: Mapping[str, Any]) -> ViTConfig:
    """Infer the architecture from shapes; heads have 64 channels unless a hint says otherwise.

    Args:
        official: tensors under official keys, and the marks of their layout.
        hints: fields of ViTConfig that shapes cannot tell.

    Raises:
        DataError: a tensor is missing or of another rank, or the shapes are of no model.
    """
    tensors = official.tensors
    swiglu = "blocks.0.mlp.w12.weight" in tensors
    width = _shape(tensors, "cls_token", 3)[-1]
    patch = _shape(tensors, "patch_embed.proj.weight", 4)[-1]
    first = _shape(tensors, "blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight", 2)[0]
    hidden = first // 2 if swiglu else first
    positions = _rotary(official, hints) if "rope" in official.marks else _learned(official, hints, patch)
    head_dim = positions.pop("head_dim", _HEAD_DIM)
    heads = hints.get("heads") or _HEADS_OF_WIDTH.get(width, width / head_dim)
    if heads != int(heads) or width % heads:
        raise DataError(
            f"width {width} does not split into {heads:g} heads",
            why=f"heads have {_HEAD_DIM} channels unless a config.json says otherwise",
            fix="keep the config.json of the checkpoint beside it",
        )
    config = ViTConfig(
        arch="",
        width=width,
        heads=int(heads),
        patch=patch,
        registers=_shape(tensors, "register_tokens", 3)[1] if "register_tokens" in tensors else 0,
        ffn="swiglu" if swiglu else "mlp",
        hidden=hidden,
        depth=_depth(tensors),
        normalization=_trained_on(official, hints),
        **positions,
    )
    try:
        require_possible(config)
    except ValueError as error:
        raise DataError(f"its tensors are of no model: {error}", fix="edgekit models") from None
    if hidden == replace(config, hidden=0).ffn_hidden:
        config = replace(config, hidden=0)
    return replace(config, arch=arch_of(config))


def _trained_on(official: OfficialState, hints: Mapping[str, Any]) -> Normalization:
    """Statistics of the pixels that a model was trained on: by its keys, what lies beside it, or its family.

    A single register is TIPSv2's (Google DeepMind 2026, arXiv 2604.12012): its pixels go from 0 to 1 as they are.
    """
    if "satellite" in official.marks:
        return "satellite"
    registers = official.tensors.get("register_tokens")
    tips = registers is not None and registers.shape[1] == 1 and "rope" not in official.marks
    return hints.get("normalization", "unit" if tips else "imagenet")


def _learned(official: OfficialState, hints: Mapping[str, Any], patch: int) -> dict[str, Any]:
    """Fields of a config with a table of positions: its grid, and how it is resized."""
    positions = _shape(official.tensors, "pos_embed", 3)[1] - 1
    if patch != 14:
        raise DataError(
            f"patches of {patch} pixels and a table of positions",
            why="it looks like DINO, DeiT, MAE or a ViT of timm: DINOv2 has patches of 14, DINOv3 rotary positions",
            fix="edgekit models",
        )
    grid = hints.get("grid") or (math.isqrt(positions),) * 2
    if math.prod(grid) != positions:
        raise DataError(
            f"a position embedding of {positions} patches is no {grid[0]}x{grid[1]} grid",
            fix="use the checkpoint from before it was fixed to one image size",
        )
    plain: Interpolation = "offset" if official.layout == "official" else "size"
    antialias = official.layout == "timm" or "register_tokens" in official.tensors
    return {"grid": grid, "interpolation": hints.get("interpolation", "antialias" if antialias else plain)}


def _rotary(official: OfficialState, hints: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a config with rotary positions; which periods are meant, the file's own or those of float32."""
    fields = {
        "positions": "rope",
        "grid": (14, 14),
        "norm_eps": hints.get("norm_eps", _ROPE_EPS),
        "rope_base": float(hints.get("rope_base", 100.0)),
    }
    stored = official.periods
    if stored is None:
        return fields
    head_dim = 4 * stored.numel()
    for exact in get_args(Periods):
        if np.allclose(
            stored.float().flatten().numpy(), periods_of(fields["rope_base"], head_dim, exact), rtol=1e-6, atol=0
        ):
            return fields | {"rope_periods": exact, "head_dim": head_dim}
    raise DataError(
        f"rope_embed.periods are {', '.join(f'{p:.4g}' for p in stored.flatten()[:3].tolist())} ...",
        why=f"neither those of base {fields['rope_base']:g} nor these rounded to bfloat16",
    )


def _shape(tensors: Mapping[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that the architecture follows from; DataError where it is missing or of another rank."""
    if key not in tensors:
        raise DataError(f"the backbone lacks {key}", fix="edgekit models")
    shape = tuple(tensors[key].shape)
    if len(shape) != dimensions or not all(shape):
        raise DataError(
            f"{key} has shape {shape}", why=f"it has {dimensions} dimensions in a DINOv2 model", fix="edgekit models"
        )
    return shape


def _depth(tensors: Mapping[str, Tensor]) -> int:
    """The number of blocks; raises DataError unless they are numbered from 0 without a gap."""
    names = {key.split(".")[1] for key in tensors if key.startswith("blocks.")}
    if foreign := sorted(names - {str(number) for number in range(len(names))}):
        raise DataError(
            f"there are tensors of {len(names)} blocks, one of them called {foreign[0][:60]!r}",
            why=f"they are numbered from 0 to {len(names) - 1} in a whole checkpoint",
            fix="download it again",
        )
    return len(names)


def arch_of(config: ViTConfig) -> str:
    """The official name of these shapes, or a descriptive one."""
    for name, known in ARCHITECTURES.items():
        chosen = {field: getattr(known, field) for field in ("grid", "interpolation", "rope_periods", "normalization")}
        if replace(config, arch=name, **chosen) == known:
            return name
    family = "dinov3" if config.positions == "rope" else "dinov2"
    return f"{family}_{config.width}x{config.depth}" + ("_reg" if config.registers and family == "dinov2" else "")
