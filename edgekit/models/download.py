"""One file over HTTP: resumed where it broke off, verified by sha256, put in place atomically, within limits."""

from __future__ import annotations

import os
import stat
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

from typing_extensions import override

from edgekit.errors import DataError

_CHUNK = 1 << 16
_TIMEOUT_S = 60.0  # for an answer, and for each piece of it
_LEAST_RATE = 1000  # bytes per second over any `_TIMEOUT_S`: a server that sends less is taken for one that hangs
_MOST_BYTES = 20_000_000_000  # of one file: ViT-g has 4.5 GB
_MOST_S = 12 * 3600.0  # of one transfer
_TRIES = 3


def download(url: str, path: Path, *, sha256: str | None) -> Path:
    """Return `path`, downloaded unless it is there with the right hash.

    pooch verifies and caches; the transfer itself is ours because pooch starts a broken one anew. What has arrived
    stays beside `path` as <name>.part and the next call asks for the rest only. A redirect never leaves HTTPS.

    Raises:
        DataError: no network, HTTP error, transfer that broke off or hardly moves, more than 20 GB, or another hash
            than `sha256`.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(
            url, known_hash=sha256 and f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=_fetch
        )
    except ValueError as error:
        why = f"its sha256 is not {sha256}" if "hash" in str(error) else str(error)
        raise DataError(
            f"{url} is not the file that is expected",
            why=why,
            fix="try again; if it stays so, pass a checkpoint you trust with --model PATH",
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot write {path.parent}", why=str(error), fix="set EDGEKIT_CACHE to a writable folder"
        ) from None
    return path


def _fetch(url: str, output_file: str, _pooch: object) -> None:
    """A pooch downloader with resume; pooch moves `output_file` into place once its hash is right."""
    output = Path(output_file)
    part = output.parent / (url.rsplit("/", 1)[-1] + ".part")
    problem = ""
    for _ in range(_TRIES):
        transfer = _Transfer(url, part)
        problem = transfer.run()
        if not problem:
            os.replace(part, output)
            return
        if transfer.final:
            raise DataError(
                f"cannot download {url}", why=problem, fix="check the network, or pass a local file with --model PATH"
            )
    raise DataError(f"the download of {url} broke off", why=problem, fix="run the same command again: it resumes")


@dataclass
class _Transfer:
    """One request in a thread of its own: a server that sends a byte a minute blocks it for ever, but not us."""

    url: str
    part: Path
    final: bool = False  # whether trying again is of no use
    problem: str = ""
    got: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> str:
        """Append to `part` what is missing of `url`; returns "" when it is whole, else what is wrong.

        Raises:
            OSError: `part` cannot be written.
        """
        failure: list[OSError] = []
        thread = threading.Thread(target=self._work, args=(failure,), daemon=True)
        thread.start()
        begun = since = time.monotonic()
        had = 0
        while thread.is_alive():
            thread.join(0.05)
            if time.monotonic() - begun > _MOST_S:
                self.stop.set()
                self.final = True
                return f"it has taken {_MOST_S / 3600:.0f} hours"
            if time.monotonic() - since > _TIMEOUT_S:
                if self.got - had < _LEAST_RATE * _TIMEOUT_S:
                    self.stop.set()
                    return f"{self.got - had} bytes in {_TIMEOUT_S:.0f} s"
                since, had = time.monotonic(), self.got
        if failure:
            raise failure[0]
        return self.problem

    def _work(self, failure: list[OSError]) -> None:
        try:
            self.problem = self._continue()
        except _WriteError as error:
            failure.append(error.cause)
        except urllib.error.HTTPError as error:
            self.problem, self.final = f"HTTP {error.code} {error.reason}", 400 <= error.code < 500
        except urllib.error.URLError as error:
            self.problem, self.final = f"no connection: {error.reason}", True
        except Exception as error:  # http.client's, and ValueErrors of lengths and addresses that are none
            self.problem = f"{type(error).__name__}: {error}"

    def _continue(self) -> str:
        have = _size_of_own(self.part)
        request = urllib.request.Request(self.url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            response = _OPENER.open(request, timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != 416:  # the server has nothing after `have`: a whole or an outdated part, so begin anew
                raise
            self.part.unlink()
            return "what was left of an earlier download did not fit"
        with response:
            resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status == 206 and not resumed:
                self.part.unlink(missing_ok=True)
                return f"the server sent {response.headers.get('Content-Range')!r} for bytes {have}-"
            have = have if resumed else 0
            told = response.headers.get("Content-Length")
            length = int(told) if told is not None and told.strip().isdecimal() and len(told) < 20 else None
            if told is not None and length is None:
                return f"the server sent a length of {told[:40]!r}"
            if have + (length or 0) > _MOST_BYTES:
                self.final = True
                return f"{have + (length or 0)} bytes, {_MOST_BYTES} are the limit"
            return self._receive(response, have, length)

    def _receive(self, response: Any, have: int, length: int | None) -> str:
        with _WriteError.of_opening(self.part, append=bool(have)) as stream:
            while not self.stop.is_set() and (chunk := response.read1(_CHUNK)):
                if self.stop.is_set():
                    break
                try:
                    stream.write(chunk)
                except OSError as error:
                    raise _WriteError(error) from None
                self.got += len(chunk)
                if have + self.got > _MOST_BYTES:
                    self.final = True
                    return f"more than {_MOST_BYTES} bytes"
        if length is not None and self.got != length:
            return f"{have + self.got} of {have + length} bytes arrived"
        return ""


class _WriteError(Exception):
    """The disk refused, not the network."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause

    @classmethod
    def of_opening(cls, part: Path, *, append: bool) -> IO[bytes]:
        """The file of what has arrived, never a link: what that leads to would be overwritten."""
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | (os.O_APPEND if append else os.O_TRUNC)
        try:
            return os.fdopen(os.open(part, flags, 0o644), "ab" if append else "wb")
        except OSError as error:
            raise cls(error) from None


def _size_of_own(part: Path) -> int:
    """Bytes of an earlier transfer; what is no regular file of our own (a planted link, a pipe) is removed."""
    try:
        state = part.lstat()
    except FileNotFoundError:
        return 0
    if stat.S_ISREG(state.st_mode) and state.st_nlink == 1:
        return state.st_size
    try:
        part.unlink()
    except OSError as error:
        raise _WriteError(error) from None
    return 0


class _StaySecure(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but none from HTTPS to anything else."""

    @override
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.lower().startswith("https:") and not newurl.lower().startswith("https:"):
            raise urllib.error.URLError(f"redirected from HTTPS to {newurl[:200]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_StaySecure())
