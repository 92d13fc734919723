"""Cuts a listing into shards, and gives each a key of all that decides its content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from edgekit.errors import DataError, RecipeError
from edgekit.images.listing import Listing


@dataclass(frozen=True)
class Shard:
    """Part `index` of a run: images in order, and the digest of the work, of their names, sizes and times."""

    index: int
    key: str
    paths: tuple[str, ...]  # relative to the folder of images
    labels: tuple[str, ...] | None

    @property
    def name(self) -> str:
        """Stem of its files."""
        return f"part-{self.index:05d}"


def cut(images: Listing, size: int, work: str) -> tuple[Shard, ...]:
    """Consecutive shards of `size` images, the last with what is left.

    Args:
        images: in the order of their names.
        size: images per shard.
        work: digest of what is computed of them.

    Raises:
        RecipeError: a size below 1.
        DataError: a file name that is no UTF-8.
    """
    if size < 1:
        raise RecipeError(f"shards of {size} images", fix="--shard-size 4096")
    labels = images.labels
    shards = []
    for index, start in enumerate(range(0, len(images), size)):
        paths = images.paths[start : start + size]
        lines = [
            f"{path}\0{bytes_}\0{time}"
            for path, (bytes_, time) in zip(paths, images.stamps[start : start + size].tolist(), strict=True)
        ]
        try:
            key = hashlib.sha256("\n".join((work, *lines)).encode()).hexdigest()
        except UnicodeEncodeError as error:
            raise DataError(f"a file name in {images.root} is not UTF-8", why=ascii(error.object)[:80]) from None
        shards.append(Shard(index, key, paths, None if labels is None else labels[start : start + size]))
    return tuple(shards)
