"""State-dict layouts of DINOv2 in the field, translated to the official facebookresearch keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from edgekit.errors import DataError

Layout = Literal["official", "huggingface"]

# The one tensor every DINOv2 checkpoint has; what stands before it is the prefix of the whole backbone.
ANCHORS: dict[Layout, str] = {
    "official": "patch_embed.proj.weight",
    "huggingface": "embeddings.patch_embeddings.projection.weight",
}

# transformers names: up to 4.x and in every published file, then (after |) the in-memory names of transformers 5
_HUGGINGFACE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^encoder\.layer\.([0-9]+)\.", r"blocks.\1."),
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
_PACKED = ((("attn.query", "attn.key", "attn.value"), "attn.qkv"), (("mlp.gate_proj", "mlp.up_proj"), "mlp.w12"))
_CHUNKED_BLOCK = re.compile(r"^blocks\.[0-9]+\.([0-9]+)\.")  # FSDP training checkpoints: blocks.<chunk>.<block>.


@dataclass(frozen=True)
class OfficialState:
    """A backbone under the official keys; `rest` holds every tensor of the file outside it, under its own key."""

    tensors: dict[str, Tensor]
    rest: dict[str, Tensor]
    layout: Layout
    prefix: str = ""  # of the backbone's keys in the file


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


def find_backbone(keys: Mapping[str, object]) -> tuple[Layout, str] | None:
    """Layout and key prefix of the backbone, or None. Of several, the (EMA) teacher of a training checkpoint wins."""
    found = [
        (layout, key.removesuffix(anchor))
        for layout, anchor in ANCHORS.items()
        for key in keys
        if key == anchor or key.endswith("." + anchor)
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
            f"no DINOv2 backbone among {len(state)} tensors ({some} ...)",
            why="neither " + " nor ".join(ANCHORS.values()) + " is there",
        )
    layout, prefix = found
    rest = {key: value for key, value in state.items() if not key.startswith(prefix)}
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if layout == "huggingface":
        tensors = _pack({_rename(key): value for key, value in tensors.items()})
    else:
        tensors = {_CHUNKED_BLOCK.sub(r"blocks.\1.", key): value for key, value in tensors.items()}
    return OfficialState({key: value.detach() for key, value in tensors.items()}, rest, layout, prefix)


def _rename(key: str) -> str:
    for pattern, replacement in _HUGGINGFACE:
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
