"""The table of backends: one row per format."""

from __future__ import annotations

from importlib import import_module

from edgekit.artifact import Format
from edgekit.backends.base import Backend

BACKENDS: dict[Format, str] = {
    "onnx": "edgekit.backends.onnx.backend:OnnxBackend",
    "openvino": "edgekit.backends.openvino.backend:OpenVinoBackend",
    "coreml": "edgekit.backends.coreml.backend:CoreMlBackend",
    "tflite": "edgekit.backends.tflite.backend:TfliteBackend",
}


def get_backend(format_: Format) -> Backend:
    """The backend of a format; importing it is cheap, its runtime is imported by its methods."""
    module, _, name = BACKENDS[format_].partition(":")
    backend: Backend = getattr(import_module(module), name)()
    return backend
