"""edgekit takes DINOv2 vision transformers to the edge: small, fast, fused INT8 models with measured proof."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# ONNX Runtime 1.32 for Linux reports its use to Microsoft unless this is set before it is imported; edgekit promises
# that nothing is sent anywhere. A value that is set already stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Artifact", "Build", "EdgekitError", "Recipe", "bench", "build", "drift", "embed", "load", "quantize"]

if TYPE_CHECKING:
    from edgekit.api.builds import Build, build
    from edgekit.api.measures import bench, drift, embed
    from edgekit.api.plans import quantize
    from edgekit.artifact import Artifact
    from edgekit.backends import load
    from edgekit.errors import EdgekitError
    from edgekit.recipe import Recipe

_HOMES = {
    "Artifact": "edgekit.artifact",
    "EdgekitError": "edgekit.errors",
    "Recipe": "edgekit.recipe",
    "load": "edgekit.backends",
    **dict.fromkeys(("Build", "build"), "edgekit.api.builds"),
    **dict.fromkeys(("bench", "drift", "embed"), "edgekit.api.measures"),
    "quantize": "edgekit.api.plans",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `import edgekit` loads neither torch nor a runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not, and nothing that is not public."""
    return sorted([*__all__, "__version__"])
