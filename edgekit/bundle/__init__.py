"""Bundles: a build folder made into one folder that can be uploaded as it is and used in an app, samples included."""

from __future__ import annotations

from edgekit.bundle.platforms import PLATFORMS, Platform
from edgekit.bundle.write import Bundle, write_bundle

__all__ = ["PLATFORMS", "Bundle", "Platform", "write_bundle"]
