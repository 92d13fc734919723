"""Files of checkpoints: tensors under the names that a file or folder gives them, and what it says beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgekit.errors import DataError
from edgekit.files import inside
from edgekit.models.config import STATISTICS, ViTConfig
from edgekit.models.described import HubConfig, config_in_header, hub_config, read_index, read_json
from edgekit.models.licences import licence_in_folder, licence_in_header
from edgekit.models.tensor_files import PICKLES, SAFETENSORS, read_tensors, require_utf8

SUFFIXES = (SAFETENSORS, *PICKLES, ".onnx")
CONFIG_KEY = "edgekit.config"  # of the header that `save_checkpoint` writes
_REQUIRED = {"layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True}  # what weights alone would not show
_ROPE_MODEL = "dinov3_vit"  # Hugging Face's name of the architecture
_REQUIRED_ROPE = {"query_bias": True, "value_bias": True, "proj_bias": True, "mlp_bias": True}


@dataclass(frozen=True)
class RawCheckpoint:
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


def read_raw(path: Path) -> RawCheckpoint:
    """Read a checkpoint file, or a folder with one; no code in it is run.

    Raises:
        DataError: missing, unreadable, truncated, of another kind, or with settings that no family has.
    """
    if path.is_dir():
        return _read_directory(path)
    if not path.is_file():
        raise DataError(f"there is no checkpoint {path}", fix="edgekit models")
    require_utf8(path)
    if path.suffix == ".onnx":
        from edgekit.models.onnx_weights import read_onnx

        export = read_onnx(path)
        hints = {"interpolation": export.interpolation, "grid": export.grid}
        return RawCheckpoint(export.state, {k: v for k, v in hints.items() if v is not None}, suffix=" (onnx)")
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path} has suffix {path.suffix!r}", why="a checkpoint ends in " + ", ".join(SUFFIXES))
    found = read_tensors(path)
    raw = RawCheckpoint(found.tensors, {}, file_bytes=found.file_bytes)
    if CONFIG_KEY not in found.metadata:
        licence = licence_in_header(found.metadata)
        return replace(raw, about={"licence": licence} if licence else {})
    config, about = config_in_header(found.metadata[CONFIG_KEY], path)
    return replace(raw, config=config, about=about)


def _read_directory(path: Path) -> RawCheckpoint:
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


def _read_weights(path: Path) -> RawCheckpoint:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        state: dict[str, Tensor] = {}
        shards = _shards(path, index)
        for shard in shards:
            state |= read_raw(shard).state
        return RawCheckpoint(state, {}, file_bytes=sum(shard.stat().st_size for shard in shards))
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return read_raw(path / name)
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(files) != 1:
        raise DataError(
            f"{path} holds {len(files)} checkpoint files",
            why="one file, or Hugging Face's model.safetensors, is needed",
            fix="name the file itself",
        )
    return read_raw(files[0])


def _shards(folder: Path, index: Path) -> list[Path]:
    """The files that an index names, all inside its folder; the hub's cache has links to its blobs there."""
    blobs = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else None
    shards = [inside(folder, name, said_by=str(index), also=blobs) for name in read_index(index)]
    for shard in shards:
        if not shard.is_file():
            raise DataError(f"{shard} is missing", why=f"{index.name} names it", fix="download it again")
    return shards
