"""Trust on first use: the digest of a checkpoint that nobody has published one of, kept when it is first loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgekit.errors import DataError
from edgekit.files import atomic_path, read_text, sha256_of
from edgekit.models.sources import cache_dir

_FOLDER = "first-use"  # inside the cache


def require_unchanged(name: str, path: Path) -> str:
    """Compare an unpinned checkpoint with the digest of its first use; what that proves, in words for its origin.

    The first load of a source keeps the digest in CACHE/first-use/. It says that a later download is the same file, and
    nothing about the first one.

    Args:
        name: of the source, which the digest belongs to.
        path: the downloaded file or folder.

    Raises:
        DataError: another file than at the first use, or the kept digest cannot be read.
    """
    record = cache_dir() / _FOLDER / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.sha256"
    found = sha256_of(path)
    try:
        known = read_text(record, 1000).partition(" ")[0]
    except (FileNotFoundError, NotADirectoryError):
        return _kept(record, found, name)
    except OSError as error:
        raise DataError(f"{record} cannot be read", why=error.strerror or str(error), fix=f"ls -l {record}") from None
    if known != found:
        raise DataError(
            f"{name} has changed since it was first used",
            why=f"its SHA-256 is {found[:12]}…, {record} says {known[:12]}…; no published digest tells which is right",
            fix=f"rm {record}   if you know why, or pass a checkpoint you trust with --model PATH",
        )
    return f"no published digest pins it; SHA-256 {found[:12]}… as at its first use here"


def _kept(record: Path, digest: str, name: str) -> str:
    """Keep a digest; a cache that cannot be written is said, and no reason to refuse."""
    try:
        with atomic_path(record) as temporary:
            temporary.write_text(f"{digest}  {name}\n", encoding="utf-8")
    except OSError as error:
        return f"not verified: no published digest pins it, and none can be kept in {record.parent} ({error.strerror})"
    return f"not verified: no published digest pins it; trusted on first use with SHA-256 {digest[:12]}…"
