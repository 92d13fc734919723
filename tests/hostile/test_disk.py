"""Disks that are full, and files that may not grow: whatever was asked for and is not there is said, and made later."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.files import sha256_of
from edgekit.manifest import Manifest
from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.vit import random_model
from tests.support.models import TINY, photographs

pytestmark = [pytest.mark.full, pytest.mark.skipif(sys.platform == "win32", reason="has neither tmpfs nor limits")]

_LIMITED = """
import resource, sys
from edgekit.cli import main
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two formats in two precisions of a tiny model."""
    folder = tmp_path_factory.mktemp("recipe")
    save_checkpoint(random_model(TINY), folder / "tiny.safetensors")
    photographs(folder / "pictures", 14)
    values = f"""
        model = "{folder}/tiny.safetensors"
        image_size = [[70, 70]]
        formats = ["onnx", "openvino"]
        precisions = ["fp32", "w8a8"]
        fused = false
        evaluation = "{folder}/pictures"
        evaluation_samples = 5
        [calibration]
        source = "{folder}/pictures"
        samples = 8
    """
    (folder / "recipe.toml").write_text(textwrap.dedent(values))
    return folder / "recipe.toml"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "small"
    place.mkdir()
    if not shutil.which("mount") or subprocess.run([*_MOUNT, "size=1m", "tmpfs", str(place)], check=False).returncode:
        pytest.skip("a tmpfs can only be mounted by root")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


_MOUNT = ["mount", "-t", "tmpfs", "-o"]


def _build(recipe: Path, out: Path, *, limit: int = 0) -> subprocess.CompletedProcess[str]:
    words = ["build", "--recipe", str(recipe), "--out", str(out)]
    command = [sys.executable, "-c", _LIMITED, str(limit), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def _finished(out: Path) -> dict[str, str]:
    """Digests of all artifacts that the manifest calls finished, each of which must be whole."""
    if not (out / "manifest.json").exists():
        return {}
    rows = [row for row in Manifest.read(out).artifacts if row.status == "ok"]
    for row in rows:
        assert sha256_of(out / str(row.path)) == row.sha256, row.name
    return {row.name: str(row.sha256) for row in rows}


def _require_said(done: subprocess.CompletedProcess[str], out: Path) -> None:
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "cannot write" in said, said
    assert str(out) in said.replace("\n", ""), said
    assert "Traceback" not in said
    assert "it is a bug" not in said
    left = [path for path in out.rglob(".*") if path.name != ".lock" and not path.name.startswith((".int8-", ".int8_"))]
    assert not left


@pytest.mark.parametrize("megabytes", [1, 3, 6, 8])
def test_a_build_on_a_full_disk_says_so_keeps_what_is_whole_and_goes_on(
    recipe: Path, small: Path, megabytes: int
) -> None:
    out = small / "out"
    subprocess.run([*_MOUNT, f"remount,size={megabytes}m", "tmpfs", str(small)], check=True)
    _require_said(_build(recipe, out), out)
    before = _finished(out)
    subprocess.run([*_MOUNT, "remount,size=300m", "tmpfs", str(small)], check=True)
    done = _build(recipe, out)
    assert done.returncode == 0, done.stdout + done.stderr
    after = _finished(out)
    assert len(after) == len(Manifest.read(out).artifacts)
    assert before.items() <= after.items()


@pytest.mark.parametrize("limit", [10_000, 700_000, 1_900_000])
def test_files_that_may_not_grow_are_named_and_made_later(recipe: Path, tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    _require_said(_build(recipe, out, limit=limit), out)
    before = _finished(out)
    done = _build(recipe, out)
    assert done.returncode == 0, done.stdout + done.stderr
    after = _finished(out)
    assert len(after) == len(Manifest.read(out).artifacts)
    assert before.items() <= after.items()
    assert json.loads((out / "report.json").read_text())["schema"].startswith("edgekit.report/")
