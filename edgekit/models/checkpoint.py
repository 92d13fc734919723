"""Checkpoints: any file that holds a DINOv2 backbone becomes a config and official tensors, checked shape by shape."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from edgekit.errors import DataError, ExportError
from edgekit.files import atomic_path, inside
from edgekit.models.config import ARCHITECTURES, STATISTICS, Interpolation, Periods, ViTConfig, require_possible
from edgekit.models.described import (
    HubConfig,
    config_in_header,
    hub_config,
    read_index,
    read_json,
    require_dense,
    require_floats,
    require_same,
    require_stored,
    texts_in_pickle,
)
from edgekit.models.keys import OfficialState, flatten, to_official
from edgekit.models.licences import licence_in_folder, licence_in_header, licence_of_text
from edgekit.models.rope import periods_of
from edgekit.models.strangers import stranger
from edgekit.models.vit import DinoV2

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".onnx")
_CONFIG_KEY = "edgekit.config"
_ABOUT = "about"  # beside the config's fields
_REQUIRED = {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True}  # what weights alone would not show
_TIMM = re.compile(r"^vit_[a-z0-9]+_patch14(?:_reg4)?_dinov2")  # names of its models
_ROPE_MODEL = "dinov3_vit"  # Hugging Face's name of the architecture
_ROPE_EPS = 1e-5  # of DINOv3's LayerNorms
_REQUIRED_ROPE = {"query_bias": True, "value_bias": True, "proj_bias": True, "mlp_bias": True}
_HEAD_DIM = 64  # of every official model; only a config can say otherwise, shapes cannot


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a file: `tensors` fit `DinoV2(config)` exactly, `rest` is everything else under its own keys."""

    config: ViTConfig
    tensors: dict[str, Tensor]
    rest: dict[str, Tensor]
    layout: str  # "official", "huggingface", each with " (onnx)" when it came from a graph
    licence: str = ""  # that the file or folder states
    origin: str = ""  # where edgekit wrote the file and knew it
    prefix: str = ""  # of the backbone's keys in the file
    described: dict[str, Any] = field(default_factory=dict)  # config.json beside the file
    licence_text: str = ""  # where it has to go with every copy: of the DINOv3 family
    processor: dict[str, Any] = field(default_factory=dict)  # preprocessor_config.json beside the file

    def model(self) -> DinoV2:
        """The un-baked model in eval mode."""
        model = DinoV2(self.config)
        model.load_state_dict(self.tensors, strict=True)
        return model.eval()


@dataclass(frozen=True)
class _Raw:
    """Tensors as a file names them, and what else it says of the architecture."""

    state: dict[str, Tensor]
    hints: dict[str, Any]  # fields of ViTConfig that shapes cannot tell
    config: ViTConfig | None = None
    suffix: str = ""  # of the layout's name
    about: dict[str, str] = field(default_factory=dict)  # licence and origin
    described: dict[str, Any] = field(default_factory=dict)  # config.json
    processor: dict[str, Any] = field(default_factory=dict)  # preprocessor_config.json
    said: HubConfig = field(default_factory=HubConfig)  # its numbers
    file_bytes: int | None = None  # of the files; None where their tensors cannot be larger than they are


def load_checkpoint(path: Path, *, config: ViTConfig | None = None) -> Checkpoint:
    """Read a .safetensors, .pth/.pt/.ckpt/.bin, .onnx (FP32) file or a folder with one, official or Hugging Face keys.

    Args:
        path: the file or directory.
        config: the architecture it must have; inferred from shapes (and config.json) when None.

    Raises:
        DataError: unreadable, truncated, no DINOv2 inside, or other shapes than `config` says.
    """
    raw = _read(path)
    try:
        require_dense(raw.state, raw.file_bytes or sys.maxsize)
        official = to_official(raw.state)
        given = official.tensors if "norm.weight" in official.tensors else _with_pooled_norm(official.tensors)
        hints = _named(path, raw, official) | raw.hints
        found = raw.config or _infer(replace(official, tensors=given), hints)
        wanted = config or found
        tensors, unused = _fit(given, wanted, raw.file_bytes)
        require_same(wanted, raw.said)
        if not raw.suffix:  # a graph holds constants beside its parameters
            _refuse_other_blocks(unused)
    except DataError as error:
        raise DataError(f"{path}: {error.what}", why=error.why, fix=error.fix) from None
    about = raw.about if wanted.positions == "learned" else _licensed(path, raw.about)
    rest = official.rest | {f"{official.prefix}{key}": value for key, value in unused.items()}
    return Checkpoint(
        wanted,
        tensors,
        rest,
        official.layout + raw.suffix,
        prefix=official.prefix,
        described=raw.described,
        processor=raw.processor,
        **about,
    )


def save_checkpoint(model: DinoV2, path: Path, *, licence: str = "", origin: str = "", licence_text: str = "") -> None:
    """Write official keys as safetensors with the config in the header, so that nothing has to be inferred again.

    Args:
        model: not rewritten.
        path: replaced atomically.
        licence: of the weights, for model cards made of the file; "" where it is not known.
        origin: where they come from, in a line.
        licence_text: where the licence wants to go with every copy.

    Raises:
        ExportError: surgery has changed the model's structure, which the official keys cannot say.
    """
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    scale = model.config.head_dim**-0.5
    if tensors.keys() != _shapes(model.config).keys() or any(block.attn.scale != scale for block in model.blocks):
        raise ExportError("a rewritten model is no checkpoint", fix="save its QuantPlan, or the model before surgery")
    described: dict[str, Any] = asdict(model.config)
    if licence or origin:
        described[_ABOUT] = {"licence": licence, "origin": origin}
        described[_ABOUT] |= {"licence_text": licence_text} if licence_text else {}
    # a single key: safetensors writes several in an order that changes from run to run
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_CONFIG_KEY: json.dumps(described, sort_keys=True)})


def _licensed(path: Path, about: dict[str, str]) -> dict[str, str]:
    """Licence that a file names, completed by the text that lies beside it."""
    if about.get("licence_text"):
        return about
    name, text = licence_of_text(path if path.is_dir() else path.parent)
    return {**about, "licence": about.get("licence") or name, "licence_text": text}


def _read(path: Path) -> _Raw:
    if path.is_dir():
        return _read_directory(path)
    if not path.is_file():
        raise DataError(f"there is no checkpoint {path}", fix="edgekit models")
    _require_utf8(path)
    match path.suffix:
        case ".safetensors":
            return _read_safetensors(path)
        case ".pth" | ".pt" | ".ckpt" | ".bin":
            return _Raw(_read_pickle(path), {}, file_bytes=path.stat().st_size)
        case ".onnx":
            from edgekit.models.onnx_weights import read_onnx

            export = read_onnx(path)
            hints = {"interpolation": export.interpolation, "grid": export.grid}
            return _Raw(export.state, {k: v for k, v in hints.items() if v is not None}, suffix=" (onnx)")
        case other:
            raise DataError(f"{path} has suffix {other!r}", why="a checkpoint ends in " + ", ".join(SUFFIXES))


def _require_utf8(path: Path) -> None:
    """Raises DataError for a name that is no UTF-8: the readers, all native code, cannot open it."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise DataError(f"the name of {shown} is not in UTF-8", why="no reader can open it", fix="rename it") from None


def _read_safetensors(path: Path) -> _Raw:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            metadata = file.metadata() or {}
    except Exception as error:  # SafetensorError, OSError, and what torch says of types that it does not know
        raise DataError(f"{path} is damaged or truncated", why=_reason(error), fix="download it again") from None
    size = path.stat().st_size
    if _CONFIG_KEY not in metadata:
        licence = licence_in_header(metadata)
        return _Raw(state, {}, about={"licence": licence} if licence else {}, file_bytes=size)
    config, about = config_in_header(metadata[_CONFIG_KEY], path)
    return _Raw(state, {}, config, about=about, file_bytes=size)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    import pickle

    require_stored(path)
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than tensors, or is damaged",
            why=stranger(texts_in_pickle(path)) or _reason(error),
            fix="save its state_dict() as .safetensors: no code is ever unpickled",
        ) from None
    except Exception as error:  # the unpickler raises whatever damaged bytes lead to
        raise DataError(f"{path} is damaged or truncated", why=_reason(error), fix="download it again") from None
    if not isinstance(tree, Mapping):
        raise DataError(
            f"{path} holds a {type(tree).__name__}, not a state dict", fix="save model.state_dict() with torch.save"
        )
    try:
        return flatten(tree)
    except DataError as error:
        raise DataError(f"{path}: {error.what}", why=error.why, fix=error.fix) from None


def _read_directory(path: Path) -> _Raw:
    """A Hugging Face folder (config.json beside whole or sharded weights), or a folder with one checkpoint file."""
    described = read_json(path / "config.json") if (path / "config.json").exists() else {}
    backbone = described.get("backbone_config")  # of a model made for a task
    architecture = backbone if isinstance(backbone, dict) else described
    _refuse_other_settings(path / "config.json", architecture)
    said = hub_config(architecture, path / "config.json")
    raw = _read_weights(path)
    hints: dict[str, Any] = {"heads": said.num_attention_heads} if said.num_attention_heads else {}
    if architecture.get("model_type") == _ROPE_MODEL:
        hints |= {"norm_eps": said.layer_norm_eps, "rope_base": said.rope_theta}
    file = path / "preprocessor_config.json"
    processor = read_json(file) if file.is_file() else {}
    hints |= _normalization(path, described, processor)
    licence = raw.about.get("licence") or licence_in_folder(path, described)
    about = raw.about | ({"licence": licence} if licence else {})
    return replace(raw, hints=hints | raw.hints, described=described, processor=processor, about=about, said=said)


def _refuse_other_settings(path: Path, architecture: Mapping[str, Any]) -> None:
    """Settings that weights alone would not show must be those of the family."""
    rope = architecture.get("model_type") == _ROPE_MODEL
    activation = {"hidden_act": "silu" if architecture.get("use_gated_mlp") else "gelu"}
    for key, needed in ({**_REQUIRED_ROPE, **activation} if rope else _REQUIRED).items():
        if architecture.get(key, needed) != needed:
            raise DataError(
                f"{path} says {key} = {architecture[key]!r}",
                why=f"every {'DINOv3' if rope else 'DINOv2'} model has {needed!r}",
            )


def _named(path: Path, raw: _Raw, official: OfficialState) -> dict[str, Any]:
    """Fields of the config that the name of a file tells, and the library that runs it where keys do not.

    timm drops the mask token of DINOv2's official files and keeps all their other names.
    """
    hints: dict[str, Any] = {"normalization": "satellite"} if "sat493m" in path.name.lower() else {}
    plain = official.layout == "official" and not official.prefix and not raw.suffix
    if plain and ("pretrained_cfg" in raw.described or "mask_token" not in official.tensors or _TIMM.search(path.name)):
        hints["interpolation"] = "antialias"
    return hints


def _normalization(folder: Path, described: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, str]:
    """Statistics of pixels that a folder names: preprocessor_config.json, or timm's `pretrained_cfg`."""
    timm = described.get("pretrained_cfg")
    mean = processor.get("image_mean") or (timm.get("mean") if isinstance(timm, Mapping) else None)
    if mean is None:
        return {}
    for name, (known, _) in STATISTICS.items():
        if isinstance(mean, list) and np.allclose(mean, known, atol=5e-4):
            return {"normalization": name}
    raise DataError(
        f"{folder} wants pixels with the mean {mean}",
        why="known are " + ", ".join(f"{name} {list(known)}" for name, (known, _) in STATISTICS.items()),
    )


def _read_weights(path: Path) -> _Raw:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        state: dict[str, Tensor] = {}
        shards = _shards(path, index)
        for shard in shards:
            state |= _read(shard).state
        return _Raw(state, {}, file_bytes=sum(shard.stat().st_size for shard in shards))
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return _read(path / name)
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(files) != 1:
        raise DataError(
            f"{path} holds {len(files)} checkpoint files",
            why="one file, or Hugging Face's model.safetensors, is needed",
            fix="name the file itself",
        )
    return _read(files[0])


def _shards(folder: Path, index: Path) -> list[Path]:
    """The files that an index names, all inside its folder; the hub's cache has links to its blobs there."""
    blobs = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else None
    shards = [inside(folder, name, said_by=str(index), also=blobs) for name in read_index(index)]
    for shard in shards:
        if not shard.is_file():
            raise DataError(f"{shard} is missing", why=f"{index.name} names it", fix="download it again")
    return shards


def _reason(error: BaseException) -> str:
    """First line of what a library says; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _with_pooled_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with timm's `fc_norm` as the final norm, which it stands for in models that pool before they norm."""
    pooled = {f"norm.{part}": tensors[f"fc_norm.{part}"] for part in ("weight", "bias") if f"fc_norm.{part}" in tensors}
    return {**tensors, **pooled}


def _refuse_other_blocks(unused: Mapping[str, Tensor]) -> None:
    """Blocks that hold more than DINOv2's compute something else: adapters, norms of queries and keys."""
    if foreign := sorted(key for key in unused if key.startswith("blocks.")):
        raise DataError(
            f"the blocks hold {len(foreign)} tensors that DINOv2's have not ({', '.join(foreign[:3])} ...)",
            why=stranger(foreign) or "it is another architecture, or adapters that are not merged into the weights",
            fix="edgekit models",
        )


def _infer(official: OfficialState, hints: Mapping[str, Any]) -> ViTConfig:
    """Architecture from shapes; heads of 64 channels unless a hint says otherwise."""
    tensors = official.tensors
    swiglu = "blocks.0.mlp.w12.weight" in tensors
    width = _shape(tensors, "cls_token", 3)[-1]
    patch = _shape(tensors, "patch_embed.proj.weight", 4)[-1]
    first = _shape(tensors, "blocks.0.mlp.w12.weight" if swiglu else "blocks.0.mlp.fc1.weight", 2)[0]
    hidden = first // 2 if swiglu else first
    positions = _rotary(official, hints) if "rope" in official.marks else _learned(official, hints, patch)
    heads = hints.get("heads") or width / positions.pop("head_dim", _HEAD_DIM)
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
        normalization="satellite" if "satellite" in official.marks else hints.get("normalization", "imagenet"),
        **positions,
    )
    try:
        require_possible(config)
    except ValueError as error:
        raise DataError(f"its tensors are of no model: {error}", fix="edgekit models") from None
    if hidden == replace(config, hidden=0).ffn_hidden:
        config = replace(config, hidden=0)
    return replace(config, arch=arch_of(config))


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


def _shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """Official keys and shapes of an architecture."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in DinoV2(config).state_dict().items()}


def _fit(
    tensors: dict[str, Tensor], config: ViTConfig, file_bytes: int | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Exactly the tensors of `DinoV2(config)`, and those left over. Raises DataError naming what does not fit."""
    wanted, given = _shapes(config), tensors.keys()
    tensors = dict(tensors)
    if not any(".ls1." in key for key in tensors):  # folded before it was saved
        tensors |= {key: torch.ones(shape) for key, shape in wanted.items() if key.endswith(".gamma")}
    if "mask_token" in tensors:
        if tensors["mask_token"].numel() == config.width:
            tensors["mask_token"] = tensors["mask_token"].reshape(1, -1)
    else:  # only pre-training uses it, exports leave it out
        tensors["mask_token"] = torch.zeros(wanted["mask_token"])
    missing = sorted(wanted.keys() - tensors.keys())
    if missing:
        raise DataError(
            f"{len(missing)} tensors of {config.arch} are missing ({', '.join(missing[:3])} ...)",
            why="it is another model, or not a float export",
        )
    for key, shape in wanted.items():
        if tuple(tensors[key].shape) != shape:
            raise DataError(
                f"{key} has shape {tuple(tensors[key].shape)}, {config.arch} needs {shape}",
                why="it is a checkpoint of another model",
                fix="edgekit models",
            )
    made = 12 * config.width * config.depth if config.positions == "rope" else 0  # biases that most layouts leave out
    require_floats({key: tensors[key] for key in wanted if key in given}, file_bytes and file_bytes + made)
    for key in wanted:
        tensors[key] = tensors[key].float()
        if not torch.isfinite(tensors[key]).all():
            raise DataError(
                f"{key} holds NaN or infinite values", why="the checkpoint is damaged", fix="download it again"
            )
    return {key: tensors[key] for key in wanted}, {key: tensors[key] for key in tensors if key not in wanted}
