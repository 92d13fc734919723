"""File formats: a package and a row of `registry` each; `load` opens any artifact or build folder without torch."""

from edgekit.backends.base import Backend, Runner
from edgekit.backends.loading import LoadedModel, artifact_of, load
from edgekit.backends.registry import get_backend
from edgekit.backends.source import ExportSource

__all__ = ["Backend", "ExportSource", "LoadedModel", "Runner", "artifact_of", "get_backend", "load"]
