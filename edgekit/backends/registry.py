"""Finds the backend of a format in the table of formats."""

from __future__ import annotations

from importlib import import_module

from edgekit.artifact import FORMATS, Format
from edgekit.backends.base import Backend


def get_backend(format_: Format) -> Backend:
    """The backend of a format; importing it is cheap, its runtime is imported by its methods."""
    module, _, name = FORMATS[format_].backend.partition(":")
    backend: Backend = getattr(import_module(module, "edgekit.backends"), name)()
    return backend


def format_of_suffix(suffix: str) -> Format | None:
    """The format whose files end in a suffix such as ".onnx"; None of an unknown one."""
    return next((format_ for format_ in FORMATS if get_backend(format_).suffix == suffix), None)
