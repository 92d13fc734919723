"""The table of backends and `load`, which opens any artifact or build folder without torch."""

from __future__ import annotations

from importlib import import_module

from edgekit.artifact import Format
from edgekit.backends.base import Backend, ExportSource, Runner
from edgekit.backends.loading import LoadedModel, artifact_of, load

__all__ = ["BACKENDS", "Backend", "ExportSource", "LoadedModel", "Runner", "artifact_of", "get_backend", "load"]

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
