"""Files of named tensors, safetensors or pickles of tensors alone: each dense, and no larger than its file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from edgekit.errors import DataError
from edgekit.models.described import require_dense, require_stored, texts_in_pickle
from edgekit.models.keys import flatten
from edgekit.models.strangers import stranger

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class TensorFile:
    """The content of a file: tensors under dotted keys, of any type, and the texts of a safetensors header."""

    tensors: dict[str, Tensor]
    file_bytes: int
    metadata: dict[str, str] = field(default_factory=dict)


def read_tensors(path: Path) -> TensorFile:
    """Read a regular file by its suffix: safetensors, or a pickle, of which no code is run.

    Raises:
        DataError: missing, a folder, pipe or device, another suffix, damaged, code or compressed records in a pickle,
            nested without end, or tensors that are not dense or are larger than the file.
    """
    if not path.is_file():
        why = "a folder, pipe or device" if path.exists() else "it does not exist"
        raise DataError(f"{path} is no file", why=why, fix=f"ls -l {path}")
    require_utf8(path)
    if path.suffix == SAFETENSORS:
        found = _read_safetensors(path)
    elif path.suffix in PICKLES:
        found = _read_pickle(path)
    else:
        known = ", ".join((SAFETENSORS, *PICKLES))
        raise DataError(f"{path} has suffix {path.suffix!r}", why=f"tensors are in {known}", fix="convert the file")
    try:
        require_dense(found.tensors, found.file_bytes)
    except DataError as error:
        raise DataError(f"{path}: {error.what}", why=error.why, fix=error.fix) from None
    return found


def require_utf8(path: Path) -> None:
    """Raises DataError for a name that is no UTF-8: the readers, all native code, cannot open it."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise DataError(f"the name of {shown} is not in UTF-8", why="no reader can open it", fix="rename it") from None


def _read_safetensors(path: Path) -> TensorFile:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            return TensorFile(state, path.stat().st_size, file.metadata() or {})
    except Exception as error:  # SafetensorError, OSError, and what torch says of types that it does not know
        raise DataError(f"{path} is damaged or truncated", why=_reason(error), fix="download it again") from None


def _read_pickle(path: Path) -> TensorFile:
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
        return TensorFile(flatten(tree), path.stat().st_size)
    except DataError as error:
        raise DataError(f"{path}: {error.what}", why=error.why, fix=error.fix) from None


def _reason(error: BaseException) -> str:
    """First line of what a library says; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
