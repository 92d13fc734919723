"""Descriptions of a checkpoint beside its tensors, read with types and limits before anything is built or converted."""

from __future__ import annotations

import json
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from edgekit.errors import DataError
from edgekit.files import read_text
from edgekit.models.config import ViTConfig, config_of

MOST_JSON = 1_000_000  # bytes of a config.json, an index or a config in a header: none of the official ones has 0.1 MB
_MOST_PICKLE = 10_000_000  # bytes of the names and shapes in a .pth: ViT-g has 0.2 MB
_MOST_TENSORS = 100_000  # of one file; ViT-g has 500, a training checkpoint a few thousand
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_AGAIN = "download it again"
_ABOUT = "about"  # licence and origin, beside the config's fields

Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]


class HubConfig(BaseModel):
    """Fields of a Hugging Face config.json that describe a backbone and that shapes can prove; others are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    hidden_size: Count | None = None
    num_hidden_layers: Count | None = None
    num_attention_heads: Count | None = None
    patch_size: Count | None = None
    layer_norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5  # of rotary models; DINOv2 has one value only
    rope_theta: Annotated[float, Field(gt=1, le=1e6)] = 100.0
    num_register_tokens: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] | None = None


class Index(BaseModel):
    """model.safetensors.index.json: the file of each tensor."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    weight_map: dict[str, str] = Field(min_length=1, max_length=_MOST_TENSORS)


class _About(BaseModel):
    """Origin and licence of the weights in a file that edgekit wrote."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    licence: str = Field(default="", max_length=1000)
    origin: str = Field(default="", max_length=1000)
    licence_text: str = Field(default="", max_length=100_000)


def read_json(path: Path) -> dict[str, Any]:
    """An object of JSON from a regular file of at most 1 MB.

    Raises:
        DataError: missing, larger, a folder or pipe, damaged, nested too deep, or no object.
    """
    try:
        values = json.loads(read_text(path, MOST_JSON))
    except OSError as error:
        raise DataError(f"{path} cannot be read", why=error.strerror or str(error), fix=_AGAIN) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON", why=str(error)[:200], fix=_AGAIN) from None
    if not isinstance(values, dict):
        raise DataError(f"{path} holds a {type(values).__name__}", why="an object of JSON is needed", fix=_AGAIN)
    return values


def read_index(path: Path) -> list[str]:
    """The names of the files that an index names. Raises DataError when it is no such index."""
    try:
        index = Index.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(f"{path} has no weight_map of file names", why=_first(error), fix=_AGAIN) from None
    return sorted(set(index.weight_map.values()))


def hub_config(values: Mapping[str, Any], path: Path) -> HubConfig:
    """The numbers of a config.json. Raises DataError where one is of another type, or below 1."""
    try:
        return HubConfig.model_validate(dict(values))
    except ValidationError as error:
        raise DataError(f"{path}: {_first(error)}", why="no model can be built of that", fix=_AGAIN) from None


def require_same(config: ViTConfig, said: HubConfig) -> None:
    """Raises DataError where a config.json says other numbers than the shapes of the tensors."""
    wanted = {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "patch_size": config.patch,
        "num_register_tokens": config.registers,
    }
    for name, found in wanted.items():
        told = getattr(said, name)
        if told not in (None, found):
            raise DataError(
                f"config.json says {name} = {told}, the tensors say {found}",
                why="it describes another model, or is damaged",
                fix=_AGAIN,
            )


def config_in_header(text: str, path: Path) -> tuple[ViTConfig, dict[str, str]]:
    """The architecture in the header of a file that edgekit wrote, and its licence and origin.

    Raises:
        DataError: larger than 1 MB, no JSON, or no architecture that can be.
    """
    try:
        if len(text) > MOST_JSON:
            raise ValueError(f"it has {len(text) / 1e6:.0f} MB")
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"it is a {type(values).__name__}, an object is needed")
        about = _About.model_validate(values.pop(_ABOUT, {})).model_dump(exclude_defaults=True)
        return config_of(values), about
    except ValidationError as error:
        why = f"about: {_first(error)}"
    except (ValueError, RecursionError) as error:
        why = str(error)[:300]
    raise DataError(f"{path}: the config in its header is no architecture", why=why, fix=_AGAIN) from None


def require_stored(path: Path) -> None:
    """Raises DataError for a zip of PyTorch's whose records are compressed: torch never does, and 6 MB may be 6 GB."""
    if not zipfile.is_zipfile(path):
        return  # the older formats are not compressed
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, UnicodeError) as error:
        raise DataError(f"{path} is damaged or truncated", why=str(error), fix=_AGAIN) from None
    packed = next((record for record in records if record.compress_type != zipfile.ZIP_STORED), None)
    total, there = sum(record.file_size for record in records), path.stat().st_size
    if packed or total > there:
        raise DataError(
            f"{path} holds compressed records: {total} bytes in a file of {there}",
            why="torch.save writes them as they are",
            fix="save its state_dict() as .safetensors",
        )


def texts_in_pickle(path: Path) -> list[str]:
    """The texts in a zip of PyTorch's, keys of tensors among them; read without unpickling. [] where it is none."""
    texts = []
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as stream:
                data = stream.read(_MOST_PICKLE)
        for _, argument, _ in pickletools.genops(data):
            if isinstance(argument, str):
                texts.append(argument)
    except Exception:  # of damaged bytes, a pickle that was cut included: what was read until then counts
        pass
    return texts


def require_dense(tensors: Mapping[str, Tensor], file_bytes: int) -> None:
    """Raises DataError unless every tensor is dense and no larger than the file that it comes from.

    A view that repeats its numbers, a sparse, quantized or meta tensor can claim any size.
    """
    for key, tensor in tensors.items():
        kind = _strange(tensor)
        if not kind and tensor.numel() * tensor.element_size() > file_bytes:
            kind = f"of {tensor.numel() * tensor.element_size()} bytes in a file of {file_bytes}"
        if kind:
            raise DataError(
                f"{key[:100]} is {kind}",
                why="only dense tensors are read, stored number by number",
                fix="save the float model's state_dict() as .safetensors",
            )


def require_floats(tensors: Mapping[str, Tensor], file_bytes: int | None = None) -> None:
    """Raises DataError unless all are floats, and together no larger than their file.

    Integers, booleans and complex numbers are no weights of a float model, whatever they would become as floats.
    """
    total = 0
    for key, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            raise DataError(
                f"{key[:100]} is of type {str(tensor.dtype).removeprefix('torch.')}",
                why="weights are float16, bfloat16, float32 or float64",
                fix="use the float checkpoint, not a quantized or converted one",
            )
        total += tensor.numel() * tensor.element_size()
        if file_bytes is not None and total > file_bytes:
            raise DataError(
                f"the tensors up to {key[:100]} have {total} bytes, their file has {file_bytes}",
                why="they are views of the same numbers",
                fix="save clones of the tensors",
            )


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raises DataError for NaN and infinite values."""
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"{key[:100]} holds NaN or infinite values", why="the file is damaged", fix=_AGAIN)


def _strange(tensor: Tensor) -> str:
    """The reason why a tensor is not dense, "" where it is."""
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_meta:
        return "a tensor without content (meta)"
    return "" if tensor.layout == torch.strided and not tensor.is_nested else "sparse or nested"


def _first(error: ValidationError) -> str:
    """The first fault, with the value."""
    first = error.errors()[0]
    where = ".".join(str(part)[:60] for part in first["loc"])
    return f"{where} = {str(first['input'])[:60]!r}: {first['msg']}"
