"""Reads the metadata of an ONNX file without the onnx package, a session, or its weights."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from edgekit.errors import DataError

_METADATA_PROPS = 14  # field of ModelProto in onnx.proto: repeated (key = 1, value = 2)


def metadata_of(path: Path) -> dict[str, str]:
    """`metadata_props` of the model at `path`; the graph is skipped over.

    Raises:
        DataError: the file is missing, or no protobuf message.
    """
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            entries = [value for field, value in _fields(stream, size, {_METADATA_PROPS}) if field == _METADATA_PROPS]
        return dict(_pair(entry) for entry in entries)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read", why=error.strerror or "", fix="edgekit export --format onnx --out OUT"
        ) from None
    except ValueError as error:
        fix = "edgekit export --format onnx --out OUT"
        raise DataError(f"{path} is no ONNX file", why=str(error), fix=fix) from None


def _fields(stream: BinaryIO, end: int, wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Fields of the message up to `end`; the content of those not wanted is skipped and given as b""."""
    while stream.tell() < end:
        tag = _varint(stream)
        field, kind = tag >> 3, tag & 7
        match kind:  # wire types of protobuf
            case 0:  # varint
                _varint(stream)
                yield field, b""
                continue
            case 2:  # length and bytes
                length = _varint(stream)
            case 1 | 5:  # fixed 64 and 32 bits
                length = 8 if kind == 1 else 4
            case _:
                raise ValueError(f"wire type {kind} does not exist")
        if field == 0 or stream.tell() + length > end:
            raise ValueError("it is cut short or not protobuf")
        if field in wanted:
            yield field, stream.read(length)
        else:
            stream.seek(length, 1)
            yield field, b""


def _pair(entry: bytes) -> tuple[str, str]:
    """Key and value of one StringStringEntryProto."""
    found = dict(_fields(BytesIO(entry), len(entry), {1, 2}))
    return found.get(1, b"").decode(), found.get(2, b"").decode()


def _varint(stream: BinaryIO) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = stream.read(1)
        if not byte:
            raise ValueError("it is cut short")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than 64 bits")
