"""Paths that strangers name, digests that manifests give, and what a killed writer leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgekit import files
from edgekit.errors import DataError
from edgekit.files import atomic_path, checked, inside, read_text, sha256_of, sweep


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file, beside a secret one."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    (tmp_path / "out" / "onnx" / "model.onnx").write_text("model")
    return tmp_path / "out"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/",
        "../secret/key",
        "onnx/../../secret/key",
        "onnx/..",
        "/etc/passwd",
        "a\0b",
        "C:/x",
        "c:x",
        "..\\secret\\key",
        "\\\\host\\share",
        "a/" * 3000 + "b",
        "x" * 300,
    ],
)
def test_a_name_that_leads_out_of_its_folder_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match="manifest names"):
        inside(folder, name, said_by="manifest")


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx", "new/not there yet.onnx", "./onnx/model.onnx", "..a/b"])
def test_a_name_inside_its_folder_is_taken(folder: Path, name: str) -> None:
    assert inside(folder, name, said_by="manifest") == folder / name


@pytest.mark.parametrize("kind", ["file", "folder", "loop", "companion of an xml", "inside a package", "pipe"])
def test_what_a_link_or_a_pipe_stands_behind_is_refused(folder: Path, kind: str) -> None:
    secret, name = folder.parent / "secret" / "key", "onnx/link"
    match kind:
        case "file":
            (folder / name).symlink_to(secret)
        case "folder":
            (folder / name).symlink_to(secret.parent)
            name += "/key"
        case "loop":
            (folder / name).symlink_to(folder / name)
        case "companion of an xml":
            name = "onnx/model.xml"
            (folder / name).touch()
            (folder / "onnx" / "model.bin").symlink_to(secret)
        case "inside a package":
            name = "model.mlpackage"
            (folder / name / "Data").mkdir(parents=True)
            (folder / name / "Data" / "weights").symlink_to(secret.parent)
        case "pipe":
            os.mkfifo(folder / name)
    with pytest.raises(DataError, match="manifest names"):
        inside(folder, name, said_by="manifest")


def test_a_link_to_a_place_inside_or_to_the_further_folder_is_followed(folder: Path) -> None:
    (folder / "same").symlink_to("onnx/model.onnx")
    (folder / "blob").symlink_to(folder.parent / "secret" / "key")
    assert inside(folder, "same", said_by="manifest").read_text() == "model"
    assert inside(folder, "blob", said_by="index", also=folder.parent / "secret").read_text() == "secret"


def test_another_file_than_the_manifest_describes_is_refused(folder: Path) -> None:
    path = folder / "onnx" / "model.onnx"
    digest = sha256_of(path)
    assert checked(path, digest, said_by="manifest", fix="build again") == path
    before = path.stat()
    path.write_text("MODEL")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as many bytes, and the same time of change
    for wanted, words in ((digest, "is not the file"), (None, "no sha256"), ("", "no sha256")):
        with pytest.raises(DataError, match=words):
            checked(path, wanted, said_by="manifest", fix="build again")
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        checked(path, digest, said_by="manifest", fix="build again")


def test_a_file_that_stays_the_same_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, hashed = folder / "onnx" / "model.onnx", []
    digest = sha256_of(path)
    monkeypatch.setattr(files, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))
    for _ in range(3):
        checked(path, digest, said_by="manifest", fix="build again")
    assert hashed == [path]


def test_only_what_carries_the_marker_is_swept(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in (".config.settings", ".album.abcdefgh", ".model.k3_9qa2x")]
    for path in mine:
        path.mkdir()
        (path / "1.jpg").touch()
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    with atomic_path(outside / "x") as temporary:
        temporary.touch()
        (tmp_path / ".link.abcdefgh").symlink_to(temporary.parent)
        sweep(tmp_path)
        assert temporary.exists()
    with atomic_path(tmp_path / "model.onnx") as temporary:
        temporary.write_text("half")
        sweep(tmp_path)  # as after kill -9
        assert not temporary.exists()
        temporary.parent.mkdir()
        temporary.write_text("whole")
    assert all((path / "1.jpg").exists() for path in mine)
    assert (tmp_path / ".link.abcdefgh").is_symlink()


def test_a_small_file_is_read_and_everything_else_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("é", encoding="utf-8")
    assert read_text(tmp_path / "text", 2) == "é"
    with pytest.raises(DataError, match="more than"):
        read_text(tmp_path / "text", 1)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(DataError, match="UTF-8"):
        read_text(tmp_path / "bytes")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="is no file"):
            read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "absent")
