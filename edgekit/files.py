"""Files: written whole or not at all, known by their digests, and never outside the folder that they are named in."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from edgekit.errors import DataError

MOST_TEXT = 64_000_000  # bytes of a manifest, record or recipe: far more than any has, far less than memory
_MARKER = ".edgekit-temporary"  # inside every temporary folder of `atomic_path`: what `sweep` may remove
_LEFTOVER = re.compile(r"^\..*\.[a-z0-9_]{8}$")  # and how such a folder is called: .<stem>.<eight random characters>
_DIGESTS: dict[tuple[tuple[str, int, int, int, int], ...], str] = {}  # by `_identity`, for `checked`


def inside(folder: Path, name: str, *, said_by: str, also: Path | None = None) -> Path:
    """The path that a manifest, an index or another file of a stranger names, proved to stay inside `folder`.

    Whatever stands there need not exist. Where it does, neither it nor what belongs to it (see `files_of`) may be a
    link that leads out of the folder, or anything but files and folders: a named pipe would be waited for.

    Args:
        folder: where it must lie.
        name: relative, with POSIX separators.
        said_by: what names it, for the message.
        also: a further folder that links may lead to.

    Raises:
        DataError: empty, absolute, with "..", with a NUL or a backslash, or a link out.
    """
    problem = _problem(name)
    path = folder / name if not problem else folder
    if not problem:
        roots = [root.resolve() for root in (folder, also) if root is not None]
        try:
            parts = path.rglob("*") if path.is_dir() else files_of(path)
            problem = next((why for file in (path, *parts) if (why := _escapes(file, roots))), "")
        except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long
            problem = getattr(error, "strerror", None) or str(error)
    if problem:
        raise DataError(f"{said_by} names {name!r}", why=problem, fix=f"get {folder} again from where it came from")
    return path


def _problem(name: str) -> str:
    """The fault of a relative path as such; "" where it has none."""
    if not name or "\0" in name:
        return "that is no path"
    if "\\" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        return "a path must be relative, with / between its parts"
    if ".." in PurePosixPath(name).parts or not PurePosixPath(name).parts:
        return "it leads out of the folder"
    return ""


def _escapes(path: Path, roots: list[Path]) -> str:
    """Why `path` may not be opened as a part of one of `roots`; "" where it may, or where there is nothing."""
    resolved = path.resolve()
    if not any(resolved.is_relative_to(root) for root in roots):
        return "a link leads out of the folder"
    if resolved.exists() and not (resolved.is_file() or resolved.is_dir()):
        return "it is neither a file nor a folder"
    return ""


def files_of(path: Path) -> list[Path]:
    """Files of the artifact at `path`, sorted.

    All of a directory, `.xml` and `.bin` of an OpenVINO IR, a large `.onnx` and its `.onnx_data`, else itself.
    """
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    if path.suffix == ".onnx" and (beside := path.with_name(f"{path.name}_data")).is_file():
        return [path, beside]
    return [path.with_suffix(".bin"), path] if path.suffix == ".xml" else [path]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of several (see `files_of`) as the digest of their relative paths and file digests.

    Raises:
        OSError: missing, unreadable, or a pipe or device, which would never end.
    """
    if files_of(path) == [path]:
        return _digest_of(path)
    root = path if path.is_dir() else path.parent
    total = hashlib.sha256()
    for file in files_of(path):
        total.update(file.relative_to(root).as_posix().encode("utf-8", "surrogateescape"))
        total.update(f"\0{_digest_of(file)}\n".encode())
    return total.hexdigest()


def _digest_of(file: Path) -> str:
    require_regular(file)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_regular(path: Path) -> None:
    """Raises OSError unless a regular file is there: a pipe or a device is waited for, and never ends."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "a folder, pipe or device, not a file", str(path))


def checked(path: Path, sha256: str | None, *, said_by: str, fix: str) -> Path:
    """`path`, after its digest was compared with the one that a manifest gives.

    A file is hashed whole, whatever its size: 23 MB take 25 ms, and whoever opens a model of 4 GB reads all of it
    anyway. It is hashed once in a process as long as path, size, inode and both times stay the same.

    Args:
        path: of an artifact, see `files_of`.
        sha256: as `sha256_of` gives it; None where the manifest has none.
        said_by: what gives the digest, for the message.
        fix: what mends it.

    Raises:
        DataError: missing, or another file than the manifest describes.
    """
    if not sha256:
        raise DataError(f"{said_by} has no sha256 of {path.name}", why="it cannot be told from a damaged file", fix=fix)
    try:
        identity = _identity(path)
        found = _DIGESTS.get(identity) or sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read", why=error.strerror or str(error), fix=fix) from None
    _DIGESTS[identity] = found
    if found != sha256:
        raise DataError(
            f"{path} is not the file that {said_by} describes",
            why=f"its SHA-256 is {found[:12]}…, not {sha256[:12]}…",
            fix=fix,
        )
    return path


def _identity(path: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """A stamp that changes when one of the files of an artifact does, without reading them."""
    found = []
    for file in files_of(path):
        state = os.stat(file)
        found.append((str(file.absolute()), state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns))
    return tuple(found)


def size_mb_of(path: Path) -> float:
    """Size in MB (10^6 bytes) of all files of an artifact."""
    return round(sum(p.stat().st_size for p in files_of(path)) / 1e6, 3)


def read_text(path: Path, limit: int = MOST_TEXT) -> str:
    """The text of a small file in UTF-8.

    Raises:
        DataError: no regular file (a pipe or a device would never end), larger than `limit` bytes, or not UTF-8.
        FileNotFoundError: missing.
        OSError: it cannot be read.
    """
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise DataError(f"{path} is no file", why="a folder, pipe or device", fix="name a regular file")
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise DataError(
            f"{path} has more than {limit / 1e6:g} MB",
            why="such a file is small when it is whole",
            fix="get the file again",
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8", why=str(error), fix="get the file again") from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` on success, remove it on any failure (Ctrl-C included).

    The sibling keeps the file suffix, since converters choose their format by it. Works for files and directories;
    what a converter writes beside its file (the `.bin` of an `.xml`) is renamed first, the file itself last. The
    folder around it carries a marker, by which `sweep` knows what a killed process left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent))
    temporary = holder / path.name
    marker = holder / _MARKER
    try:
        marker.write_text("A file was being written here. edgekit removes this folder.\n", encoding="utf-8")
        yield temporary
        for companion in sorted(p for p in holder.iterdir() if p not in (temporary, marker)):
            os.replace(companion, path.parent / companion.name)
        if not path.is_dir() or path.is_symlink():
            os.replace(temporary, path)
            return
        old = holder / f"{_MARKER}-old"  # a folder is not replaced in one step: the old one steps aside, and back
        os.replace(path, old)
        try:
            os.replace(temporary, path)
        except BaseException:
            os.replace(old, path)
            raise
    except OSError as error:
        if error.filename is None or Path(str(error.filename)).is_relative_to(holder):
            error.filename = str(path)  # the file that could not be written, not the temporary one
        raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)


@contextmanager
def sealed_path(path: Path) -> Iterator[Path]:
    """`atomic_path` for one file that gets its digest beside it: `<name>.sha256`, as `sha256sum -c` reads it.

    The digest is put in place first: whenever a process ends, the file is the one that its digest describes, or is
    known not to be.
    """
    with atomic_path(path) as temporary:
        yield temporary
        line = f"{sha256_of(temporary)}  {path.name}\n"
        _seal_of(temporary).write_text(line, encoding="utf-8")


def sealed(path: Path) -> str:
    """Why the file is not the one that `sealed_path` wrote, in a clause; "" where it is."""
    try:
        wanted = read_text(_seal_of(path), 1000).partition(" ")[0]
        found = sha256_of(path)
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, DataError) as error:
        return str(error)
    return "" if found == wanted else f"its SHA-256 is {found[:12]}…, not {wanted[:12]}… as {path.name}.sha256 says"


def unlink_sealed(path: Path) -> None:
    """Remove a file that `sealed_path` wrote, and its digest."""
    path.unlink(missing_ok=True)
    _seal_of(path).unlink(missing_ok=True)


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def sweep(folder: Path) -> None:
    """Remove the temporary folders that a killed `atomic_path` left right below `folder`: those with its marker."""
    for path in folder.iterdir():
        if _LEFTOVER.match(path.name) and not path.is_symlink() and (path / _MARKER).is_file():
            shutil.rmtree(path, ignore_errors=True)
