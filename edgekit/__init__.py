"""edgekit takes DINOv2 vision transformers to the edge: small, fast, fused INT8 models with measured proof."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# ONNX Runtime 1.32 for Linux reports its use to Microsoft unless this is set before it is imported; edgekit promises
# that nothing is sent anywhere. A value that is set already stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["Artifact", "EdgekitError", "Recipe", "build", "load"]

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from edgekit.backends import load
    from edgekit.errors import EdgekitError
    from edgekit.pipeline import build
    from edgekit.recipe import Recipe

_HOMES = {
    "Artifact": "edgekit.artifact",
    "EdgekitError": "edgekit.errors",
    "Recipe": "edgekit.recipe",
    "build": "edgekit.pipeline",
    "load": "edgekit.backends",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `import edgekit` loads neither torch nor a runtime."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names too, imported or not."""
    return sorted({*globals(), *__all__})
