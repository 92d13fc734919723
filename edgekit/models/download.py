"""One file over HTTP: resumed where it broke off, verified by sha256, put in place atomically."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from edgekit.errors import DataError

_CHUNK = 1 << 20
_TIMEOUT_S = 60.0
_TRIES = 3


def download(url: str, path: Path, *, sha256: str | None) -> Path:
    """Return `path`, downloaded unless it is there with the right hash.

    pooch verifies and caches; the transfer itself is ours because pooch starts a broken one anew. What has arrived
    stays beside `path` as <name>.part and the next call asks for the rest only.

    Raises:
        DataError: no network, HTTP error, transfer that broke off, or another hash than `sha256`.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")
    try:
        pooch.retrieve(
            url, known_hash=sha256 and f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=_fetch
        )
    except ValueError as error:
        if "hash" not in str(error):
            raise
        raise DataError(
            f"{url} is not the file that is expected",
            why=f"its sha256 is not {sha256}",
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
        try:
            problem = _continue(url, part)
        except urllib.error.HTTPError as error:
            raise DataError(
                f"cannot download {url}",
                why=f"HTTP {error.code} {error.reason}",
                fix="pass a local checkpoint with --model PATH",
            ) from None
        except (HTTPException, ConnectionError, TimeoutError) as error:
            problem = f"{type(error).__name__}: {error}"
        except urllib.error.URLError as error:
            raise DataError(
                f"cannot download {url}",
                why=f"no connection: {error.reason}",
                fix="check the network, or pass a local checkpoint with --model PATH",
            ) from None
        if not problem:
            os.replace(part, output)
            return
    raise DataError(f"the download of {url} broke off", why=problem, fix="run the same command again: it resumes")


def _continue(url: str, part: Path) -> str:
    """Append to `part` what is missing of `url`; returns "" when it is whole, else what is wrong."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the server has nothing after `have`: a whole or an outdated part, so begin anew
            raise
        part.unlink()
        return "what was left of an earlier download did not fit"
    with response, part.open("ab" if response.status == 206 else "wb") as stream:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        got = 0
        while chunk := response.read(_CHUNK):
            stream.write(chunk)
            got += len(chunk)
    if length is not None and got != int(length):
        return f"{have + got} of {have + int(length)} bytes arrived"
    return ""
