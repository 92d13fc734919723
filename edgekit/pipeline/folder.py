"""The build folder: made and proved writable, held by one build at a time, swept of what a killed one left."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgekit.errors import DataError
from edgekit.files import sweep

_LOCK = ".lock"
_STORAGE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOENT,
}


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Make `out`, prove that it can be written, and keep other builds away while the block runs.

    Raises:
        DataError: it cannot be made or written, the disk is full, or another build is at work in it.
    """
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"\0" * 4096)
        lock = out / _LOCK
        _take(lock, out)
    try:
        _sweep(out)
        with storage_errors(out):
            yield
    finally:
        lock.unlink(missing_ok=True)
        with suppress(OSError):
            out.rmdir()  # only succeeds when nothing was written


def refuse_unwritable(out: Path) -> None:
    """What `held` refuses, as far as it can be told without writing anything: no room on the disk is not seen.

    Raises:
        DataError: `out` cannot be made or written, or another build is at work in it.
    """
    there = next(place for place in (out.absolute(), *out.absolute().parents) if place.exists())
    with storage_errors(out):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    _refuse_other_build(out / _LOCK, out)


@contextmanager
def storage_errors(out: Path) -> Iterator[None]:
    """Turn the system's refusals to write into an error that says what to do."""
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code not in _STORAGE:
            raise
        full = code in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space and run the same command again: finished artifacts are kept" if full else "--out FOLDER"
        raise DataError(f"cannot write to {out}", why=os.strerror(code), fix=fix) from error


def _code(error: Exception) -> int:
    """The system's number of an error, 0 of any other; safetensors has it in its words alone."""
    if isinstance(error, OSError):
        return error.errno or 0
    told = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(told.group(1)) if told else 0


def _take(lock: Path, out: Path) -> None:
    """Write our process id into the lock unless a living process holds it."""
    _refuse_other_build(lock, out)
    lock.write_text(str(os.getpid()))


def _refuse_other_build(lock: Path, out: Path) -> None:
    """Raises DataError when a living process holds the lock."""
    import psutil

    try:
        holder = int(lock.read_text())
    except (OSError, ValueError):
        holder = 0
    if holder and holder != os.getpid() and psutil.pid_exists(holder) and _is_python(holder):
        raise DataError(
            f"another build (process {holder}) is at work in {out}",
            fix=f"wait for it, choose another --out, or delete {lock}",
        )


def _is_python(process: int) -> bool:
    """Whether the process may be a build: ids are given out again, and any other program is none."""
    import psutil

    try:
        name = psutil.Process(process).name().lower()
    except psutil.Error:
        return False
    return "python" in name or "edgekit" in name


def _sweep(out: Path) -> None:
    """Remove the temporary folders that a killed build could not remove itself."""
    folders = [path for path in out.iterdir() if path.is_dir() and not path.is_symlink()]
    for folder in (out, *(path for path in folders if not path.name.startswith("."))):
        sweep(folder)
