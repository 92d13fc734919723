"""The build folder: made and proved writable, held by one build at a time, swept of what a killed one left."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.errors import DataError
from edgekit.files import read_text, sweep

_LOCK = ".lock"
_LARGE = 10_000_000_000  # bytes: no artifact has as many
_STORAGE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
}


@contextmanager
def folder_lock(out: Path) -> Iterator[None]:
    """Make `out`, prove that it can be written, and keep other builds away while the block runs.

    Raises:
        DataError: it cannot be made or written, the disk is full, or another build is at work in it.
    """
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"\0" * 4096)
    try:
        with _alone_in(out):
            _sweep(out)
            with storage_errors(out):
                yield
    finally:
        with suppress(OSError):
            out.rmdir()  # only succeeds when nothing was written


def refuse_unwritable(out: Path) -> None:
    """Refuse a folder that `folder_lock` would refuse, without writing anything: no room on the disk is not seen.

    Raises:
        DataError: `out` cannot be made or written, or another build is at work in it.
    """
    there = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
    with storage_errors(out):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if (out / _LOCK).exists():
        with _alone_in(out):
            pass


@contextmanager
def storage_errors(out: Path) -> Iterator[None]:
    """Turn the system's refusals to write into an error that says what to do."""
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code not in _STORAGE:
            raise
        full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free some space and run the same command again: finished artifacts are kept" if full else "--out FOLDER"
        place = getattr(error, "filename", None) or out
        raise DataError(f"cannot write to {place}", why=os.strerror(code), fix=fix) from error


def full_disk(error: BaseException | None, path: Path) -> str:
    """The file that could not be written and why, "" where the disk has nothing to do with an error.

    Converters hide the system's number behind errors of their own: then it counts as the cause where the disk has less
    than 1 MB left, or the process may not write large files.

    Args:
        error: with its causes.
        path: that was to be written, where the error names no other file.
    """
    while error is not None:
        if isinstance(error, Exception) and (code := _code(error)) in _STORAGE - {errno.ENOENT, errno.EEXIST}:
            return f"{getattr(error, 'filename', None) or path}: {os.strerror(code)}"
        error = error.__cause__ or error.__context__
    with suppress(OSError):
        there = next(place for place in path.absolute().parents if place.exists())
        if (free := shutil.disk_usage(there).free) < 1_000_000:
            return f"{path}: {free} bytes are free on the disk"
    limit = _most_bytes()
    return f"{path}: the system allows files of {limit} bytes (ulimit -f)" if limit < _LARGE else ""


def _most_bytes() -> float:
    """The size that the system allows a file of this process to have."""
    if sys.platform == "win32":
        return float("inf")
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return float("inf") if limit == resource.RLIM_INFINITY else limit


def _code(error: Exception) -> int:
    """The system's number of an error, 0 of any other; safetensors has it in its words alone."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(told.group(1)) if told else 0


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Hold the lock of a build folder: the system's own, which ends with the process however that ends.

    Raises:
        DataError: another process holds it, or it cannot be made.
    """
    from filelock import FileLock, Timeout

    path = out / _LOCK
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"another build{_holder(path)} is at work in {out}", fix="wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot lock {out}", why=f"{path}: {error.strerror or error}", fix=f"rm {path}, or --out ANOTHER_FOLDER"
        ) from None
    try:
        path.write_text(str(os.getpid()), encoding="utf-8")  # for the message of the other
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever waits for this file sees that it is gone
        lock.release()


def _holder(path: Path) -> str:
    """Process that holds the lock, in brackets, where it has said so."""
    try:
        return f" (process {int(read_text(path, 100))})"
    except (OSError, ValueError, DataError):
        return ""


def _sweep(out: Path) -> None:
    """Remove the temporary folders that a killed build could not remove itself."""
    folders = [path for path in out.iterdir() if path.is_dir() and not path.is_symlink()]
    for folder in (out, *(path for path in folders if not path.name.startswith("."))):
        sweep(folder)
