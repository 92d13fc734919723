"""Files of shards: Parquet tables and safetensors, each with a note of its key, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from edgekit.artifact import Frozen
from edgekit.errors import BackendMissing, DataError
from edgekit.files import atomic_path, require_regular
from edgekit.shards.task import Failure

if TYPE_CHECKING:
    import pyarrow as pa

_NOTE = "edgekit"  # key of the note in a file's metadata
_AGAIN = "remove it and run again"


class Note(Frozen):
    """The metadata in a file of a shard: `key` of its content, rows, and the images that could not be used."""

    key: str
    images: int
    failures: tuple[Failure, ...]


def require_pyarrow() -> None:
    """Raises BackendMissing where Parquet cannot be written."""
    if find_spec("pyarrow") is None:
        raise BackendMissing(
            "pyarrow is not installed", why="shards of features are Parquet files", fix='pip install "edgekit[ray]"'
        )


def write_table(
    path: Path, columns: Mapping[str, Sequence[str]], vectors: Mapping[str, np.ndarray], note: Note | None = None
) -> None:
    """Write a Parquet file of strings and of numbers: (n,) floats, or (n, D) as lists of fixed length."""
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays: dict[str, pa.Array] = {name: pa.array(list(values), pa.string()) for name, values in columns.items()}
    for name, values in vectors.items():
        flat = pa.array(np.ascontiguousarray(values).reshape(-1))
        arrays[name] = flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    table = pa.table(arrays)
    if note is not None:
        table = table.replace_schema_metadata({_NOTE: note.model_dump_json()})
    with atomic_path(path) as temporary:
        # codes of repeated words pay, of names and digests, which differ, they do not
        pq.write_table(table, temporary, compression="zstd", use_dictionary=[n for n in columns if n == "label"])
        _to_disk(temporary)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], note: Note) -> None:
    """Write a safetensors file."""
    from safetensors.numpy import save_file

    with atomic_path(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(value) for name, value in tensors.items()},
            temporary,
            metadata={_NOTE: note.model_dump_json()},
        )
        _to_disk(temporary)


def note_of_table(path: Path) -> Note | None:
    """The note of a Parquet file, None when it is missing, damaged or somebody else's."""
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        require_regular(path)
        return _note(dict(pq.read_schema(path).metadata or {}).get(_NOTE.encode()))
    except (OSError, pa.ArrowException):
        return None


def note_of_tensors(path: Path) -> Note | None:
    """The note of a safetensors file, None when it is missing, damaged or somebody else's."""
    from safetensors import SafetensorError, safe_open

    try:
        require_regular(path)
        with safe_open(path, "numpy") as file:
            return _note((file.metadata() or {}).get(_NOTE))
    except (OSError, SafetensorError):
        return None


def read_vectors(path: Path, column: str) -> np.ndarray:
    """The vectors (n, D) float32 of a column of fixed lists. Raises DataError when the file cannot be read."""
    lists = _column(path, column)
    try:
        values: np.ndarray = np.asarray(lists.flatten()).reshape(-1, lists.type.list_size)
    except (AttributeError, ValueError):
        raise DataError(f"{path}: {column} holds {lists.type}", why="vectors are needed", fix=_AGAIN) from None
    return values


def read_words(path: Path, column: str) -> list[str]:
    """A column of strings. Raises DataError when the file cannot be read."""
    words: list[str] = _column(path, column).to_pylist()
    return words


def read_joined(paths: Sequence[Path], name: str) -> np.ndarray:
    """One tensor of several safetensors files, end to end; nothing else of them is read.

    Raises:
        DataError: a file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    parts = []
    for path in paths:
        try:
            require_regular(path)
            with safe_open(path, "numpy") as file:
                parts.append(file.get_tensor(name))
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read", why=str(error), fix=_AGAIN) from None
    return np.concatenate(parts)


def _column(path: Path, name: str) -> pa.Array:
    """A column of a Parquet file in one piece."""
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        require_regular(path)
        return pq.read_table(path, columns=[name])[name].combine_chunks()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path} cannot be read", why=str(error), fix=_AGAIN) from None


def _note(text: bytes | str | None) -> Note | None:
    try:
        return None if text is None else Note.model_validate_json(text)
    except ValidationError:
        return None


def _to_disk(path: Path) -> None:
    """A rename that survives a power cut must not come before its data."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
