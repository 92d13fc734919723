"""A folder of images as a sorted list; the folders right below it are class labels when every image lies in one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import DataError
from edgekit.images.read import SUFFIXES


@dataclass(frozen=True)
class ImageFolder:
    """All images below `root`, nested folders included, in the order of their names.

    `paths` are relative to `root`; `labels` is the first folder of each path, or None when some image lies in `root`
    itself or there is but one folder, since then folders are no classes.
    """

    root: Path
    paths: tuple[Path, ...]
    labels: tuple[str, ...] | None

    @classmethod
    def scan(cls, root: Path) -> ImageFolder:
        """List a folder. Raises DataError when it is missing, no folder, or holds no PNG, JPEG or WebP file."""
        if not root.is_dir():
            raise DataError(
                f"{root} is not a folder of images", why="no such folder" if not root.exists() else "a file"
            )
        paths = sorted(
            (
                path.relative_to(root)
                for path in root.rglob("*")
                if _is_image(path.relative_to(root)) and path.is_file()
            ),
            key=lambda path: path.as_posix(),
        )
        if not paths:
            raise DataError(
                f"{root} holds no images", why="looked for " + ", ".join(sorted(SUFFIXES)) + ", in subfolders too"
            )
        folders = {path.parts[0] for path in paths}
        labelled = len(folders) > 1 and all(len(path.parts) > 1 for path in paths)
        return cls(root, tuple(paths), tuple(path.parts[0] for path in paths) if labelled else None)

    @property
    def classes(self) -> tuple[str, ...]:
        """The distinct labels in order, empty when there are none."""
        return tuple(sorted(set(self.labels or ())))


def _is_image(path: Path) -> bool:
    """By suffix; hidden files and folders (.git, macOS's ._copies) are no images."""
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)
