"""The images below a folder as names, sizes and times alone: millions fit in memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import DataError
from edgekit.images.read import SUFFIXES


@dataclass(frozen=True)
class Listing:
    """All images below `root` by name, about 0.2 kB each. `stamps` (n, 2) int64: bytes, and time of change in ns.

    `labelled` says that the first folders are classes: every image lies in one, and there are several.
    """

    root: Path
    paths: tuple[str, ...]  # relative to root, POSIX separators, in order
    stamps: np.ndarray
    labelled: bool
    skipped: tuple[tuple[str, str], ...] = ()  # name, as far as it can be shown, and why: no images to any command

    @classmethod
    def scan(cls, root: Path) -> Listing:
        """List a folder; links to folders are not followed.

        Files whose names are not UTF-8, links that loop, and what else the system refuses to look at are skipped.

        Raises:
            DataError: it is missing, no folder, cannot be read, or holds no PNG, JPEG or WebP file.
        """
        if not root.is_dir():
            raise DataError(
                f"{root} is not a folder of images", why="no such folder" if not root.exists() else "a file"
            )
        skipped: list[tuple[str, str]] = []
        found = sorted(_images_below(root, skipped))
        if not found:
            why = "looked for " + ", ".join(sorted(SUFFIXES)) + ", in subfolders too"
            raise DataError(
                f"{root} holds no images", why="; ".join([why, *(f"{name}: {reason}" for name, reason in skipped[:3])])
            )
        stamps = np.array([(size, time) for _, size, time in found], np.int64)
        paths = tuple(path for path, _, _ in found)
        labelled = all("/" in path for path in paths) and len({path.partition("/")[0] for path in paths}) > 1
        return cls(root, paths, stamps, labelled, tuple(sorted(skipped)))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The first folder of each path where these are classes, else None."""
        return tuple(path.partition("/")[0] for path in self.paths) if self.labelled else None

    def take(self, indices: Iterable[int]) -> Listing:
        """Some of the images, in the order of their names; what is a class stays one."""
        chosen = sorted(indices)
        return Listing(
            self.root, tuple(self.paths[i] for i in chosen), self.stamps[chosen], self.labelled, self.skipped
        )


def _images_below(root: Path, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, int, int]]:
    """Images as (relative path, bytes, time in ns); hidden files and folders (.git, macOS's ._copies) are none.

    Files that are named like an image and cannot be used are appended to `skipped`.
    """

    def refuse(error: OSError) -> None:
        if Path(error.filename) == root:
            raise DataError(f"cannot list {error.filename}", why=error.strerror or str(error))
        skipped.append((_shown(Path(error.filename).relative_to(root)), error.strerror or str(error)))

    for folder, inside, files in os.walk(root, onerror=refuse):
        inside[:] = [name for name in inside if not name.startswith(".")]
        below = "" if Path(folder) == root else Path(folder).relative_to(root).as_posix() + "/"
        for name in files:
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in SUFFIXES:
                continue
            path = below + name
            if not _is_text(path):
                skipped.append((_shown(Path(path)), "its name is not UTF-8"))
                continue
            try:
                found = os.stat(os.path.join(folder, name))
            except FileNotFoundError:  # a link that leads nowhere
                continue
            except OSError as error:  # a loop of links, a target with too long a name, a file as a folder
                skipped.append((path, error.strerror or str(error)))
                continue
            if stat.S_ISREG(found.st_mode):
                yield path, found.st_size, found.st_mtime_ns


def _is_text(name: str) -> bool:
    """Whether a name can be written in UTF-8, as every manifest, report and table is."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path) -> str:
    """A name with the bytes that are not UTF-8 as \\xff."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
