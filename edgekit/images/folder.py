"""A folder of images as a sorted list; the folders right below it are class labels when every image lies in one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.images.listing import Listing


@dataclass(frozen=True)
class ImageFolder:
    """All images below `root`, nested folders included, in the order of their names.

    `paths` are relative to `root`; `labels` is the first folder of each path, or None when some image lies in `root`
    itself or there is but one folder, since then folders are no classes.
    """

    root: Path
    paths: tuple[Path, ...]
    labels: tuple[str, ...] | None
    skipped: tuple[tuple[str, str], ...] = ()  # see `Listing`

    @classmethod
    def scan(cls, root: Path) -> ImageFolder:
        """List a folder. Raises DataError when it is missing, no folder, or holds no PNG, JPEG or WebP file."""
        found = Listing.scan(root)
        return cls(root, tuple(Path(path) for path in found.paths), found.labels, found.skipped)

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels in order, empty when there are none."""
        return tuple(sorted(set(self.labels or ())))
