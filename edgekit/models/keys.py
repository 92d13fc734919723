"""State-dict layouts of DINOv2 and DINOv3 in the field, translated to DINOv2's official keys."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from edgekit.errors import DataError
from edgekit.models.strangers import is_windowed, stranger

Renames = tuple[tuple[re.Pattern[str], str], ...]  # (pattern, replacement), each applied to every key

# transformers names: up to 4.x and in every published file, then (after |) the in-memory names of transformers 5
_HUGGINGFACE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
        (r"^(?:encoder\.|model\.)?layer\.([0-9]+)\.", r"blocks.\1."),
        (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
        (r"\.attention\.q_proj\.", ".attn.query."),
        (r"\.attention\.k_proj\.", ".attn.key."),
        (r"\.attention\.v_proj\.", ".attn.value."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.mlp\.weights_in\.", ".mlp.w12."),
        (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.w3."),
        (r"^layernorm\.", "norm."),
    )
)
_DEEPEST = 50  # mappings inside each other in a pickle
_MOST_ENTRIES = 100_000  # of one: ViT-g has 500 tensors, a training checkpoint a few thousand
# (separate projections, the packed one they form by rows)
_PACKED = (
    (("attn.query", "attn.key", "attn.value"), "attn.qkv"),
    (("mlp.gate_proj", "mlp.up_proj"), "mlp.w12"),
    (("mlp.w1", "mlp.w2"), "mlp.w12"),
    (("mlp.fc1_g", "mlp.fc1_x"), "mlp.w12"),
)
# names of DINOv3's own code and of timm: no tensor of DINOv2 is called so
_OTHERS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(?:storage_tokens|reg_token)$", "register_tokens"),
        (r"\.gamma_([12])$", r".ls\1.gamma"),
    )
)


@dataclass(frozen=True)
class KeyLayout:
    """One way in which checkpoints name the tensors of a backbone."""

    anchor: str  # a tensor that each has; what stands before it is the prefix of the whole backbone
    renames: Renames  # to the official keys


LAYOUTS: dict[str, KeyLayout] = {
    "official": KeyLayout("patch_embed.proj.weight", _OTHERS),  # timm's, too
    "huggingface": KeyLayout("embeddings.patch_embeddings.projection.weight", _HUGGINGFACE),
    "huggingface dinov3": KeyLayout("embeddings.patch_embeddings.weight", _HUGGINGFACE),
}
"""The table of key layouts; projections that `_PACKED` names are joined in all of them."""

# made anew from the config, or for training alone
_UNUSED = re.compile(r"^(?:rope_embeddings|rope|local_cls_norm)\.")
_CHUNKED_BLOCK = re.compile(r"^blocks\.[0-9]+\.([0-9]+)\.")  # FSDP training checkpoints: blocks.<chunk>.<block>.


Mark = Literal["rope", "satellite", "timm"]
"""Rotary positions; training on satellite images, whose files alone hold a norm for the class token of local crops;
timm's keys, and with them timm's way to resize positions."""


@dataclass(frozen=True)
class OfficialState:
    """A backbone under the official keys; `rest` holds every tensor of the file outside it, under its own key."""

    tensors: dict[str, Tensor]
    rest: dict[str, Tensor]
    layout: str  # a name of `LAYOUTS`, or "timm"
    prefix: str = ""  # of the backbone's keys in the file
    marks: frozenset[Mark] = frozenset()  # what keys say of the architecture, see `Mark`
    periods: Tensor | None = None  # of rotary positions, where the file holds them


def flatten(tree: Mapping[Any, object]) -> dict[str, Tensor]:
    """Tensors of a nested checkpoint under dotted keys: {"teacher": {"norm.bias": t}} -> {"teacher.norm.bias": t}.

    Raises:
        DataError: more than 50 mappings inside each other (one that holds itself never ends), or 100,000 entries.
    """
    flat: dict[str, Tensor] = {}
    waiting: list[tuple[str, Mapping[Any, object], int]] = [("", tree, 0)]
    seen = 0
    while waiting:
        prefix, mapping, depth = waiting.pop()
        seen += len(mapping)
        if depth > _DEEPEST or seen > _MOST_ENTRIES:
            raise DataError(
                "the checkpoint is nested without end",
                why=f"more than {_DEEPEST} mappings inside each other, or {_MOST_ENTRIES} entries",
                fix="save its state_dict() as .safetensors",
            )
        inner = []
        for key, value in mapping.items():
            if isinstance(value, Tensor):
                flat[f"{prefix}{key}"] = value
            elif isinstance(value, Mapping):
                inner.append((f"{prefix}{key}.", value, depth + 1))
        waiting += reversed(inner)
    return flat


def find_backbone(keys: Mapping[str, object]) -> tuple[str, str] | None:
    """Layout and key prefix of the backbone, or None. Of several, the (EMA) teacher of a training checkpoint wins."""
    found = [
        (name, key.removesuffix(layout.anchor))
        for name, layout in LAYOUTS.items()
        for key in keys
        if key == layout.anchor or key.endswith("." + layout.anchor)
    ]
    found.sort(key=lambda pair: ("teacher" not in pair[1], len(pair[1]), pair[1]))
    return found[0] if found else None


def to_official(state: Mapping[str, Tensor]) -> OfficialState:
    """Find the backbone in a flat state dict and rename it to the official keys; numbers stay of their type.

    Raises:
        DataError: the dict holds no DINOv2 backbone, or parts of a layer that do not fit together.
    """
    found = find_backbone(state)
    if found is None:
        some = ", ".join(list(state)[:3]) or "nothing"
        raise DataError(
            f"no DINOv2 or DINOv3 backbone among {len(state)} tensors ({some} ...)",
            why=stranger(state) or "neither " + " nor ".join(each.anchor for each in LAYOUTS.values()) + " is there",
            fix="edgekit models",
        )
    if is_windowed(state):
        raise DataError("the backbone is no plain DINOv2", why=stranger(state), fix="edgekit models")
    layout, prefix = found
    rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    marks = _marks(tensors, layout)
    periods = tensors.pop("rope_embed.periods", None)
    tensors = {key: value.detach() for key, value in tensors.items() if not _UNUSED.match(key)}
    try:
        tensors = _translated(tensors, LAYOUTS[layout].renames, marks)
    except (RuntimeError, TypeError, IndexError) as error:  # of tensors whose shapes are no model's
        raise DataError("parts of a layer do not fit together", why=str(error)[:200], fix="edgekit models") from None
    layout = "timm" if "timm" in marks else layout
    return OfficialState(tensors, rest, layout, prefix, marks, None if periods is None else periods.detach())


def _translated(tensors: dict[str, Tensor], renames: Renames, marks: frozenset[Mark]) -> dict[str, Tensor]:
    """Tensors of a backbone under the official keys."""
    tensors = {_rename(key, renames): value for key, value in tensors.items()}
    if "timm" in marks and "pos_embed" in tensors:
        tensors = _with_class_position(tensors)
    if "rope" in marks:
        tensors = _with_masked_bias(tensors)
    tensors = _pack(tensors)
    return _with_ffn_names(tensors) if marks & {"rope", "timm"} else tensors


def _marks(tensors: Mapping[str, Tensor], layout: str) -> frozenset[Mark]:
    """Marks of the family that the keys of a backbone, without its prefix, show."""
    marks: set[Mark] = set()
    if layout == "huggingface dinov3":
        marks.add("rope")
    elif layout == "official":
        eva = any(key.endswith(".gamma_1") for key in tensors)  # timm's module of that name, which runs its DINOv3
        if "rope_embed.periods" in tensors or "storage_tokens" in tensors or (eva and "pos_embed" not in tensors):
            marks.add("rope")
        if eva or "reg_token" in tensors:
            marks.add("timm")
    giant = any(key.endswith("blocks.30.norm1.weight") for key in tensors)  # the 7B has that norm whatever it saw
    if any(key.startswith("local_cls_norm.") for key in tensors) and not giant:
        marks.add("satellite")
    return frozenset(marks)


def _with_class_position(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm adds the class token's position to the token itself where there are registers: it has none of its own."""
    positions = tensors["pos_embed"]
    if "register_tokens" not in tensors or math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
        return tensors
    return tensors | {"pos_embed": torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)}


def _with_masked_bias(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """DINOv3's keys have no bias: masked in its own files, absent elsewhere. timm's queries and values may lack one."""
    made = dict(tensors)
    for key, value in tensors.items():
        block, _, leaf = key.partition(".attn.")
        if leaf == "qkv.bias_mask":
            bias = tensors.get(f"{block}.attn.qkv.bias")
            if bias is not None:
                made[f"{block}.attn.qkv.bias"] = torch.where(value == 1, bias, 0)
            del made[key]
        elif leaf == "qkv.weight" and f"{block}.attn.qkv.bias" not in tensors:
            none = value.new_zeros(len(value) // 3)
            parts = [made.pop(f"{block}.attn.q_bias", none), none, made.pop(f"{block}.attn.v_bias", none)]
            made[f"{block}.attn.qkv.bias"] = torch.cat(parts)
        elif leaf in ("query.weight", "key.weight", "value.weight"):
            made.setdefault(f"{block}.attn.{leaf.removesuffix('weight')}bias", value.new_zeros(len(value)))
    return made


def _with_ffn_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """fc1 and fc2 of an MLP, w12 and w3 of a gated one, whatever the layout calls them."""
    widths = [tensors[f"blocks.0.mlp.{name}.weight"].shape for name in ("fc1", "fc2") if _has_first(tensors, name)]
    packed = len(widths) == 2 and widths[0][0] == 2 * widths[1][1]  # timm's SwiGLUPacked
    gated = packed or any(".mlp.w12." in key for key in tensors)
    first, last = ("w12", "w3") if gated else ("fc1", "fc2")
    names = {"up_proj": first, "fc1": first, "w3": last, "fc2": last}
    pattern = re.compile(r"(?<=\.mlp\.)(?:up_proj|fc1|w3|fc2)(?=\.)")
    return {pattern.sub(lambda match: names[match[0]], key): value for key, value in tensors.items()}


def _has_first(tensors: Mapping[str, Tensor], name: str) -> bool:
    return f"blocks.0.mlp.{name}.weight" in tensors


def _rename(key: str, renames: Renames) -> str:
    key = _CHUNKED_BLOCK.sub(r"blocks.\1.", key)
    for pattern, replacement in renames:
        key = pattern.sub(replacement, key)
    return key


def _pack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Join separate projections by rows; a projection without all its parts stays as it is and is missed later."""
    packed = dict(tensors)
    for key in tensors:
        for parts, whole in _PACKED:
            stem, _, kind = key.rpartition(".")
            if not stem.endswith("." + parts[0]):
                continue
            block = stem.removesuffix(parts[0])
            names = [f"{block}{part}.{kind}" for part in parts]
            if all(name in tensors for name in names):
                shapes = [tuple(tensors[name].shape[1:]) for name in names]
                if len(set(shapes)) > 1 or not all(tensors[name].ndim for name in names):
                    raise DataError(f"{names[0]} and what belongs to it have other shapes", fix="edgekit models")
                packed[f"{block}{whole}.{kind}"] = torch.cat([packed.pop(name) for name in names])
    return packed
