"""Heads inside checkpoints, told by the keys beside the backbone's: of Hugging Face, timm, Depth Anything, DINOv2."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DataError
from edgekit.graph.heads import Head
from edgekit.heads.classification import LinearClassifier, PooledClassifier
from edgekit.heads.depth_anything import DepthAnything, official_key
from edgekit.heads.known import farthest, head_of, with_classes
from edgekit.models.config import ViTConfig
from edgekit.models.depth_anything import DepthKind, depth_kind, is_depth_anything, title_of
from edgekit.models.described import require_floats

if TYPE_CHECKING:
    from edgekit.models.zoo import LoadedModel

_HUGGINGFACE_MODELS = ("dinov2.", "dinov2_with_registers.")
_PLACEHOLDER = re.compile(r"LABEL_\d+")  # what transformers calls classes that nobody named
_DECODE_HEADS = (  # keys of facebookresearch/dinov2's heads; others of mmsegmentation have more
    (re.compile(r"(?:conv_seg\.(?:weight|bias)|bn\.\w+)"), "logits", "linear segmentation"),
    (re.compile(r"conv_depth\.(?:weight|bias)"), "predicted_depth", "linear depth"),
    (
        re.compile(r"(?:reassemble_blocks|convs|fusion_blocks|project|conv_depth\.head)\..*"),
        "predicted_depth",
        "DPT depth",
    ),
)


@dataclass(frozen=True)
class OwnHead:
    """A head in a checkpoint: `keys` are its tensors, `make` builds it of the kind that a user names, "" as it says."""

    title: str
    keys: frozenset[str]
    make: Callable[[str], Head]
    kinds: bool = False  # whether a user can name one


def _arrays(loaded: LoadedModel, keys: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Float32 arrays by name, of {name: key in the file}. Raises DataError when one is not finite."""
    require_floats({key: loaded.rest[key] for key in keys.values() if loaded.rest[key].ndim})
    arrays = {name: loaded.rest[key].detach().float().numpy() for name, key in keys.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise DataError(
                f"{keys[name]} holds NaN or infinite values", why="the checkpoint is damaged", fix="download it again"
            )
    return arrays


def saliency_program(module: Any, config: ViTConfig) -> Head:
    """The saliency decoder of the demo, which is loaded with its checkpoint."""
    from edgekit.heads.saliency import SaliencyHead, SaliencyProgram

    assert isinstance(module, SaliencyHead)
    return SaliencyProgram.of(module, config)


def depth_anything(loaded: LoadedModel, config: ViTConfig) -> tuple[str, OwnHead] | None:
    """`DepthAnything` of either version and either naming."""
    if not is_depth_anything(loaded.rest):
        return None
    prefix = re.sub(r"(?:pretrained|backbone)\.$", "", loaded.prefix)
    names = {key: key.removeprefix(prefix) for key in loaded.rest if key.startswith(prefix)}
    own = {key: name for key, name in names.items() if name.startswith(("depth_head.", "neck.", "head."))}
    official = {key: official_key(name) for key, name in own.items()}
    if None in official.values() or not own:  # batch norm, a class token: the same anchors, another head
        return None

    def make(said: str) -> Head:
        kind = kind_of(loaded, config, said)
        return DepthAnything.from_state(
            _arrays(loaded, {str(name): key for key, name in official.items()}), config, kind
        )

    try:
        kind = kind_of(loaded, config)
        title = f"{title_of(kind.version, config.width)}, {kind.words}"
    except DataError:  # which is raised where the head is wanted
        title = "Depth Anything"
    return "predicted_depth", OwnHead(title, frozenset(own), make, kinds=True)


def kind_of(loaded: LoadedModel, config: ViTConfig, said: str = "") -> DepthKind:
    """The kind of a Depth Anything checkpoint, see `depth_kind`."""
    return depth_kind(config.depth, said=said, described=loaded.described, name=loaded.name)


def huggingface_classifier(loaded: LoadedModel, config: ViTConfig) -> tuple[str, OwnHead] | None:
    """`Dinov2ForImageClassification`, with or without registers."""
    model = next((model for model in _HUGGINGFACE_MODELS if loaded.prefix.endswith(model)), None)
    if model is None or not loaded.layout.startswith("huggingface"):
        return None
    return _classifier(
        loaded, config, loaded.prefix.removesuffix(model) + "classifier.", "classifier of Hugging Face", layers=(1,)
    )


def linear_head(loaded: LoadedModel, config: ViTConfig) -> tuple[str, OwnHead] | None:
    """`_LinearClassifierWrapper` of facebookresearch/dinov2's hub/classifiers.py."""
    if not loaded.prefix.endswith("backbone."):
        return None
    prefix = loaded.prefix.removesuffix("backbone.") + "linear_head."
    return _classifier(loaded, config, prefix, "official linear classifier", layers=(1, 4))


def _classifier(
    loaded: LoadedModel, config: ViTConfig, prefix: str, title: str, *, layers: tuple[int, ...]
) -> tuple[str, OwnHead] | None:
    """A linear layer over class tokens of so many blocks and the mean patch token."""
    keys = {key.removeprefix(prefix): key for key in loaded.rest if key.startswith(prefix)}
    if not keys or keys.keys() - {"weight", "bias"}:
        return None

    def make(kind: str) -> Head:
        state = _linear(_arrays(loaded, keys), prefix, [(count + 1) * config.width for count in layers])
        return with_classes(LinearClassifier.from_state(state, config), _class_names(loaded))

    return "logits", OwnHead(title, frozenset(keys.values()), make)


def timm_head(loaded: LoadedModel, config: ViTConfig) -> tuple[str, OwnHead] | None:
    """`head.*` of timm's vision transformers, `fc_norm.*` where the pooled token is normed."""
    prefix = loaded.prefix
    mine = (f"{prefix}head.", f"{prefix}fc_norm.")
    keys = {key.removeprefix(prefix): key for key in loaded.rest if key.startswith(mine)}
    linear = {name for name in keys if name.startswith("head.")}
    known = {"head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"}
    if not linear or keys.keys() - known or not loaded.layout.startswith(("official", "timm")):
        return None
    normed = "fc_norm.weight" in keys
    pool = _timm_setting(loaded, "global_pool") or ("avg" if normed else "token")
    if pool not in ("token", "avg"):
        return None

    def make(kind: str) -> Head:
        state = _arrays(loaded, keys)
        head = _linear({name.removeprefix("head."): state[name] for name in linear}, f"{prefix}head.", [config.width])
        norm = (state["fc_norm.weight"], state["fc_norm.bias"]) if normed and pool == "avg" else None
        if norm and any(part.shape != (config.width,) for part in norm):
            raise DataError(f"{prefix}fc_norm.* has shape {norm[0].shape}", why=f"({config.width},) is needed")
        last = (config.depth - 1,)
        made = PooledClassifier(head["weight"], head["bias"], last, "avg" if pool == "avg" else "token", norm)
        return with_classes(made, _class_names(loaded))

    what = {"token": "class token", "avg": "mean patch token"}[pool]
    return "logits", OwnHead(f"classifier of timm over the {what}", frozenset(keys.values()), make)


def decode_head(loaded: LoadedModel, config: ViTConfig) -> tuple[str, OwnHead] | None:
    """A head of facebookresearch/dinov2's segmentation and depth models, beside its backbone."""
    if not loaded.prefix.endswith("backbone."):
        return None
    prefix = loaded.prefix.removesuffix("backbone.") + "decode_head."
    keys = {key.removeprefix(prefix): key for key in loaded.rest if key.startswith(prefix)}
    fitting = [row[1:] for row in _DECODE_HEADS if keys and all(row[0].fullmatch(key) for key in keys)]
    if not fitting:
        return None
    name, title = fitting[0]

    def make(kind: str) -> Head:
        head = head_of(_arrays(loaded, keys), config, farthest(loaded.name))
        if head is None:
            raise DataError(f"{prefix}* is no whole head", why=f"found {', '.join(sorted(keys))[:200]}")
        return with_classes(head, _class_names(loaded))

    return name, OwnHead(f"{title} of DINOv2", frozenset(keys.values()), make)


def _linear(state: dict[str, np.ndarray], prefix: str, inputs: list[int]) -> dict[str, np.ndarray]:
    """Weight and bias of a linear layer; zeros for the bias it may do without. Raises DataError on other shapes."""
    if "weight" not in state:
        raise DataError(f"there is no {prefix}weight", why="the head is incomplete")
    weight = state["weight"]
    bias = state.get("bias", np.zeros(len(weight), np.float32))
    if weight.ndim != 2 or weight.shape[1] not in inputs or not len(weight):
        raise DataError(
            f"{prefix}weight has shape {weight.shape}", why=f"(classes, {' or '.join(map(str, inputs))}) is needed"
        )
    if bias.shape != (len(weight),):
        raise DataError(f"{prefix}bias has shape {bias.shape}", why=f"the weight is of {len(weight)} classes")
    return {"weight": weight, "bias": bias}


def _class_names(loaded: LoadedModel) -> tuple[str, ...]:
    """`id2label` of Hugging Face's config.json or `label_names` of timm's; () where classes have no names.

    Raises:
        DataError: the numbers are not 0, 1, 2, ...
    """
    labels = loaded.described.get("id2label")
    if isinstance(labels, Mapping) and labels:
        numbers = [int(number) if str(number).isdecimal() else -1 for number in labels]
        if sorted(numbers) != list(range(len(labels))):
            raise DataError(
                f"id2label of config.json has the numbers {', '.join(map(str, labels))[:80]}",
                why="0, 1, 2, ... are needed",
            )
        labels = [str(label) for _, label in sorted(zip(numbers, labels.values(), strict=True))]
        return () if all(_PLACEHOLDER.fullmatch(label) for label in labels) else tuple(labels)
    labels = _timm_setting(loaded, "label_names")
    return tuple(map(str, labels)) if isinstance(labels, list) else ()


def _timm_setting(loaded: LoadedModel, name: str) -> Any:
    """A field of timm's config.json, which may stand in its `pretrained_cfg`; None without one."""
    pretrained = loaded.described.get("pretrained_cfg")
    inner = pretrained.get(name) if isinstance(pretrained, Mapping) else None
    return loaded.described.get(name, inner)


FINDERS = (depth_anything, huggingface_classifier, linear_head, timm_head, decode_head)
"""Each returns the name of the output and the head, or None where a checkpoint has no such head."""
