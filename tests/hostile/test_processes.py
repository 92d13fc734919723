"""Builds that meet each other, signals, full disks and outputs that cannot be written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edgekit.errors import DataError, ExportError
from edgekit.pipeline.folder import folder_lock, full_disk, refuse_unwritable
from tests.support.hostile import refused

_HOLD = """
import signal, sys, time
from pathlib import Path
from edgekit.cli import main
import edgekit.cli as cli
from edgekit.pipeline.folder import folder_lock
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
def hold(*_, **__):
    with folder_lock(Path(sys.argv[1])):
        (Path(sys.argv[1]) / "begun").touch()
        time.sleep(60)
cli.app = hold
sys.exit(main(["build"]))
"""


def _holder(out: Path) -> subprocess.Popen[str]:
    """A process of the command line that is at work in `out`."""
    child = subprocess.Popen([sys.executable, "-c", _HOLD, str(out)], stderr=subprocess.PIPE, text=True)
    while not (out / "begun").exists():
        assert child.poll() is None, child.stderr and child.stderr.read()
        time.sleep(0.05)
    return child


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=str
)
def test_a_build_that_is_ended_leaves_no_lock_that_holds(tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    child = _holder(out)
    try:
        assert f"process {child.pid}" in refused(lambda: folder_lock(out).__enter__()).what
        refused(lambda: refuse_unwritable(out))
        child.send_signal(number)
        assert child.wait(30) == code
    finally:
        child.kill()
        child.wait()
    assert (out / ".lock").exists() == (number == signal.SIGKILL)
    refuse_unwritable(out)
    with folder_lock(out):
        assert (out / ".lock").read_text() == str(os.getpid())
        refused(lambda: folder_lock(out).__enter__())  # of a second thread of this process, too
    assert not (out / ".lock").exists()


@pytest.mark.parametrize(
    "text", ["", "1", str(os.getpid()), "9" * 40, "x", "\0"], ids=["empty", "init", "own", "long", "word", "nul"]
)
def test_a_lock_that_nobody_holds_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lock").write_text(text)
    refuse_unwritable(tmp_path)
    with folder_lock(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("kind", ["link", "folder", "loop"])
def test_what_is_planted_as_a_lock_is_not_written_to(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    match kind:
        case "link":
            (out / ".lock").symlink_to(victim)
        case "folder":
            (out / ".lock").mkdir()
        case "loop":
            (out / ".lock").symlink_to(out / ".lock")
    refused(lambda: folder_lock(out).__enter__())
    assert victim.read_text() == "mine"


def test_of_twelve_builds_at_one_instant_one_gets_in(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from edgekit.errors import DataError
        from edgekit.pipeline.folder import folder_lock
        (Path(sys.argv[2]) / sys.argv[3]).touch()
        while len(list(Path(sys.argv[2]).iterdir())) < 6:
            pass
        for _ in range(40):
            try:
                with folder_lock(Path(sys.argv[1])):
                    with open(Path(sys.argv[1]) / "inside", "x"):
                        time.sleep(0.001)
                    (Path(sys.argv[1]) / "inside").unlink()
            except DataError:
                pass
    """)
    out, ready = tmp_path / "out", tmp_path / "ready"
    out.mkdir()
    (out / "kept").touch()
    ready.mkdir()
    command = [sys.executable, "-c", script, str(out), str(ready)]
    children = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(6)]
    errors = [child.communicate(timeout=50)[1] for child in children]
    assert [child.returncode for child in children] == [0] * 6, errors  # "x" fails where two are inside


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EROFS, "Read-only file system"),
        type("SafetensorError", (Exception,), {})("Error: I/O error: No space left on device (os error 28)"),
    ],
    ids=lambda error: type(error).__name__ + str(getattr(error, "errno", "")),
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_no_room_on_the_disk_is_told_from_other_errors(tmp_path: Path, error: Exception, wrapped: bool) -> None:
    found: BaseException = error
    if wrapped:
        found = ExportError("the file cannot be written")
        found.__cause__ = error
    assert full_disk(found, tmp_path / "m.onnx")
    assert not full_disk(DataError("the file is damaged"), tmp_path / "m.onnx")


def test_a_build_whose_artifact_found_no_room_fails() -> None:
    from edgekit.manifest import ArtifactRow, Manifest
    from edgekit.pipeline.make import UNWRITTEN
    from edgekit.pipeline.run import BuildResult

    rows = [
        ArtifactRow(name="onnx/fp32", format="onnx", precision="fp32", status="ok"),
        ArtifactRow(
            name="onnx/w8a8", format="onnx", precision="w8a8", status="failed", reason=f"{UNWRITTEN} OUT/x.onnx: full"
        ),
    ]
    manifest = Manifest(model={}, recipe={}, recipe_digest="", host={}, artifacts=tuple(rows))
    result = BuildResult(Path("OUT"), manifest, (), ("onnx/fp32",), None, None, 0.0, failed=("onnx/w8a8",))
    assert result.exit_code == 1


_CLI = [sys.executable, "-m", "edgekit"]


def _run(words: list[str], redirect: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    line = " ".join([*_CLI, *words, redirect])
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=os.environ | environment, check=False, timeout=250
    )


@pytest.mark.full
@pytest.mark.parametrize("words", [["models"], ["models", "--json"], ["doctor"]], ids=" ".join)
@pytest.mark.parametrize("encoding", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}], ids=str)
def test_an_output_that_knows_ascii_only_is_no_error(words: list[str], encoding: dict[str, str]) -> None:
    done = _run(words, **encoding)
    assert done.returncode == 0, done.stderr
    done.stdout.encode("ascii")


@pytest.mark.full
@pytest.mark.parametrize("redirect", ["| true", ">&-", "| head -1"])
def test_a_reader_that_has_left_is_no_error(redirect: str) -> None:
    done = _run(["models"], f"{redirect}; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.full
@pytest.mark.parametrize("words", [["models"], ["models", "--json"]], ids=" ".join)
def test_an_output_without_room_is_said_in_one_line(words: list[str]) -> None:
    done = _run(words, "> /dev/full")
    assert done.returncode == 1
    assert done.stderr.strip() == "error cannot write to standard output: No space left on device"


_WORDS = [
    ["inspect", "'~nosuchuser/m.pth'"],
    ["inspect", "'[/bold].pth'"],
    ["inspect", r"$'m\xff.pth'"],
    ["inspect", "/dev/zero"],
    ["build", "--recipe", "/dev/zero", "--out", "OUT"],
    ["build", "--model", "'[/bold]'", "--out", "OUT", "--dry-run"],
    ["build", "--image-size", "9" * 5000, "--out", "OUT", "--dry-run"],
    ["build", "--seed", "-1", "--out", "OUT", "--dry-run"],
    ["embed", "--threads", "100000", "x", "--model", "y", "--out", "z"],
    ["bundle", "/dev/null", "--to", "x"],
    ["join", "nowhere", "--to", "x.exe"],
    ["check", "nowhere"],
    ["report", "nowhere"],
    ["explain", "nowhere"],
]


@pytest.mark.full
@pytest.mark.parametrize("words", _WORDS, ids=lambda words: " ".join(words)[:40].replace("\\", ""))
def test_words_that_cannot_be_end_in_an_error_of_ours(tmp_path: Path, words: list[str]) -> None:
    done = _run(words, PYTHONPATH=os.getcwd())
    assert done.returncode in (1, 2)
    assert "it is a bug" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()
