"""Images: reading, the official eval transform, folders, and the sets that calibrate and judge a model."""

from __future__ import annotations

from edgekit.images.folder import ImageFolder
from edgekit.images.preprocess import preprocess, to_pixels
from edgekit.images.read import read_image
from edgekit.images.sets import ImageSet, Skipped, load_set

__all__ = ["ImageFolder", "ImageSet", "Skipped", "load_set", "preprocess", "read_image", "to_pixels"]
