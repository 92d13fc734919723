"""Servers that answer garbage, never end or never begin, and caches in which links were planted."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request

import pytest

from edgekit.files import sha256_of
from edgekit.models import download as module
from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.download import download
from edgekit.models.sources import HubSource, UrlSource
from edgekit.models.vit import random_model
from edgekit.models.zoo import ZooEntry
from tests.support.hostile import refused
from tests.support.models import TINY

_OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def _serving(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """The address of a server that does the same with every connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.recv(65536)
                    answer(connection)
                except OSError:
                    pass

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/m.pth"


def _sends(*parts: bytes) -> Callable[[socket.socket], object]:
    return lambda connection: [connection.sendall(part) for part in parts]


def _drips(start: bytes, piece: bytes) -> Callable[[socket.socket], object]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(0.05)

    return answer


def _floods(start: bytes) -> Callable[[socket.socket], object]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"x" * 65536)

    return answer


_ANSWERS: dict[str, Callable[[socket.socket], object]] = {
    "nothing": _sends(),
    "garbage": _sends(b"\0" * 1000),
    "another protocol": _sends(b"SSH-2.0-x\r\n"),
    "status abc": _sends(b"HTTP/1.1 abc OK\r\n\r\n"),
    "status 999": _sends(b"HTTP/1.1 999 x\r\n\r\n"),
    "status 204": _sends(b"HTTP/1.1 204 x\r\n\r\n"),
    "status 500": _sends(b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"),
    "length abc": _sends(_OK + b"Content-Length: abc\r\n\r\nxyz"),
    "length -5": _sends(_OK + b"Content-Length: -5\r\n\r\nxyz"),
    "length 1e30": _sends(_OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nxyz"),
    "length of 5000 digits": _sends(_OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nxyz"),
    "length too large": _sends(_OK + b"Content-Length: 1000\r\n\r\nxyz"),
    "chunk -5": _sends(_OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nxyz\r\n0\r\n\r\n"),
    "chunk abc": _sends(_OK + b"Transfer-Encoding: chunked\r\n\r\nxyz!\r\nxyz\r\n0\r\n\r\n"),
    "chunk of 2^80": _sends(_OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\nxyz"),
    "chunk cut": _sends(_OK + b"Transfer-Encoding: chunked\r\n\r\n10\r\nxyz"),
    "redirect to bad IPv6": _sends(b"HTTP/1.1 302 x\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n"),
    "redirect to a file": _sends(b"HTTP/1.1 302 x\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
    "redirect to nowhere": _sends(b"HTTP/1.1 302 x\r\nLocation: \r\nContent-Length: 0\r\n\r\n"),
    "redirect to itself": _sends(b"HTTP/1.1 302 x\r\nLocation: /m.pth\r\nContent-Length: 0\r\n\r\n"),
    "redirect to a port of letters": _sends(b"HTTP/1.1 302 x\r\nLocation: http://h:x/\r\nContent-Length: 0\r\n\r\n"),
    "too many headers": _sends(_OK + b"A: b\r\n" * 1000 + b"\r\n"),
    "too long a header": _sends(_OK + b"A: " + b"b" * 100_000 + b"\r\n\r\n"),
    "another file": _sends(_OK + b"Content-Length: 3\r\n\r\nxyz"),
    "a byte at a time in the status": _drips(b"", b"H"),
    "a byte at a time in a header": _drips(_OK, b"x"),
    "a header at a time": _drips(_OK, b"A: b\r\n"),
    "a byte at a time in the body": _drips(_OK + b"Content-Length: 100000\r\n\r\n", b"x"),
    "a byte at a time in a chunk": _drips(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a chunk size without end": _drips(_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "silence": lambda connection: time.sleep(20),
    "a body without end": _floods(_OK + b"\r\n"),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test can wait for."""
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.4)
    monkeypatch.setattr(module, "_MOST_BYTES", 5_000_000)


@pytest.mark.parametrize("case", _ANSWERS)
def test_a_server_that_answers_garbage_is_refused(tmp_path: Path, case: str) -> None:
    with _serving(_ANSWERS[case]) as url:
        refused(lambda: download(url, tmp_path / "m.pth", sha256="0" * 64))
    assert not (tmp_path / "m.pth").exists()


@pytest.mark.parametrize("url", ["ftp://h/x", "file:///etc/passwd", "x", "", "http://", "http://[::1/x", "data:,x"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    refused(lambda: download(url, tmp_path / "m.pth", sha256="0" * 64))


@pytest.mark.parametrize("new", ["http://h/x", "HTTP://h/x", "ftp://h/x"])
def test_https_never_becomes_anything_else(new: str) -> None:
    handler = module._StaySecure()
    with pytest.raises(OSError, match="from HTTPS"):
        handler.redirect_request(Request("https://h/x"), None, 302, "", None, new)  # type: ignore[arg-type]
    assert handler.redirect_request(Request("https://h/x"), None, 302, "", {}, "https://h/y")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "hard link"])
def test_what_is_planted_in_place_of_a_part_is_not_written_to(tmp_path: Path, kind: str) -> None:
    victim, part = tmp_path / "victim", tmp_path / "cache" / "m.pth.part"
    part.parent.mkdir()
    victim.write_text("mine")
    match kind:
        case "link":
            part.symlink_to(victim)
        case "dangling":
            part.symlink_to(tmp_path / "made by the link")
        case "pipe":
            os.mkfifo(part)
        case "hard link":
            os.link(victim, part)
    with _serving(_sends(_OK + b"Content-Length: 3\r\n\r\nxyz")) as url:
        path = download(url, tmp_path / "cache" / "m.pth", sha256=None)
    assert path.read_bytes() == b"xyz"
    assert not path.is_symlink()
    assert victim.read_text() == "mine"
    assert not (tmp_path / "made by the link").exists()


def test_only_a_pinned_source_stands_in_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.models import zoo

    def asked(source: HubSource) -> Path:
        assert source.pinned, "the hub was asked for what no digest pins"
        return _gone()

    monkeypatch.setattr(HubSource, "fetch", asked)
    monkeypatch.setattr(UrlSource, "fetch", lambda self: _gone())
    for entry in zoo.entries():
        if isinstance(entry.sources[0], UrlSource):
            why = refused(lambda entry=entry: zoo.load(entry.name)).why
            assert ("no digest pins it" in why) != entry.sources[1].pinned
        assert all(source.pinned for source in entry.sources) or len(entry.sources) > 1 or _of_its_own_repo(entry)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that stands for whoever answers for the hub; what is asked for is copied out of it."""
    import huggingface_hub

    folder, copies = tmp_path / "hub", iter(range(1000))
    folder.mkdir()
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))

    def snapshot(repo: str, *, revision: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        copy = tmp_path / "snapshots" / str(next(copies))
        shutil.copytree(folder, copy)
        return str(copy)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return folder


def _weights(path: Path, seed: int) -> str:
    save_checkpoint(random_model(TINY, seed), path)
    return sha256_of(path)


def test_what_no_digest_pins_is_trusted_on_first_use_and_refused_when_it_changes(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.models import zoo

    _weights(hub / "model.safetensors", 0)
    entry = ZooEntry("tiny", TINY, (HubSource("someone/tiny"),), "MIT", "a test")
    monkeypatch.setattr(zoo, "ENTRIES", (entry,))
    said: list[str] = []
    assert "trusted on first use with SHA-256" in zoo.load("tiny", notify=said.append).origin
    assert any("trusted on first use" in line for line in said)
    assert "as at its first use here" in zoo.load("tiny").origin
    _weights(hub / "model.safetensors", 1)
    changed = refused(lambda: zoo.load("tiny"))
    assert "has changed since it was first used" in changed.what
    record = changed.fix.split()[1]
    Path(record).unlink()
    assert "trusted on first use" in zoo.load("tiny").origin


@pytest.mark.parametrize("kind", ["pipe", "folder", "garbage", "large", "/dev/zero"])
def test_a_kept_digest_that_is_none_is_said(hub: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    from edgekit.models.first_use import require_unchanged

    _weights(hub / "model.safetensors", 0)
    require_unchanged("hub:someone/tiny", hub)
    record = next((hub.parent / "cache" / "first-use").iterdir())
    record.unlink()
    match kind:
        case "pipe":
            os.mkfifo(record)
        case "folder":
            record.mkdir()
        case "garbage":
            record.write_bytes(b"\xff\xfe")
        case "large":
            record.write_bytes(b"0" * 5000)
        case device:
            record.symlink_to(device)
    refused(lambda: require_unchanged("hub:someone/tiny", hub))


def test_a_cache_that_cannot_be_written_is_said_and_no_error(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.models.first_use import require_unchanged

    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    assert "none can be kept" in require_unchanged("hub:someone/tiny", hub)


@pytest.mark.parametrize("lie", ["other weights", "no weights", "an index beside them", "a pickle beside them"])
def test_of_a_pinned_repository_only_the_pinned_file_is_read(
    hub: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    from edgekit.models import zoo

    digest = _weights(hub / "model.safetensors", 0)
    entry = ZooEntry("tiny", TINY, (HubSource("someone/tiny", "abc", digest),), "MIT", "a test")
    monkeypatch.setattr(zoo, "ENTRIES", (entry,))
    match lie:
        case "other weights":
            _weights(hub / "model.safetensors", 1)
        case "no weights":
            (hub / "model.safetensors").unlink()
        case "an index beside them":
            _weights(hub / "model-2.safetensors", 1)
            names = dict.fromkeys(random_model(TINY).state_dict(), "model-2.safetensors")
            (hub / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        case "a pickle beside them":
            (hub / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    if lie in ("other weights", "no weights"):
        assert "is pinned" in refused(lambda: zoo.load("tiny")).why
    else:
        assert zoo.load("tiny").sha256 == digest


def _of_its_own_repo(entry: ZooEntry) -> bool:
    """Whether the name of a model is that of the hub's repository it comes from, so that nothing else is meant."""
    source = entry.sources[0]
    return "/" in entry.name or (isinstance(source, HubSource) and source.repo.rpartition("/")[2] == entry.name)


def _gone() -> Path:
    from edgekit.errors import DataError

    raise DataError("the host is blocked", why="by a firewall")
