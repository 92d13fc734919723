"""The wheel holds every file that an installed copy needs: templates, pages, the sources of the native ops."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from edgekit.native import build

ROOT = Path(__file__).parents[2]
LEFT_OUT = {"__pycache__", "node_modules", "dist", "_lib", "wasm"}  # made by running, not written by anyone


def checkout_in(folder: Path) -> Path:
    """A copy of what packaging reads."""
    checkout = folder / "checkout"
    checkout.mkdir()
    shutil.copytree(ROOT / "edgekit", checkout / "edgekit", ignore=shutil.ignore_patterns(*LEFT_OUT - {"_lib"}))
    shutil.copytree(ROOT / "recipes", checkout / "recipes")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, checkout / name)
    return checkout


def test_an_editable_install_is_one_line_and_prints_no_warning_box(tmp_path: Path) -> None:
    checkout = checkout_in(tmp_path)
    program = "from setuptools.build_meta import build_editable; build_editable('wheels')"
    done = subprocess.run([sys.executable, "-c", program], cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "*****" not in done.stdout + done.stderr
    archive = zipfile.ZipFile(next((checkout / "wheels").glob("*.whl")))
    (link,) = [name for name in archive.namelist() if name.endswith(".pth")]
    assert archive.read(link).decode().strip() == str(checkout)


def test_a_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    checkout = checkout_in(tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(tmp_path),
            str(checkout),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    packed = set(zipfile.ZipFile(next(tmp_path.glob("edgekit-*.whl"))).namelist())
    written = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "edgekit").rglob("*")
        if path.is_file()
        and not LEFT_OUT & set(path.parts)
        and not (path.name == "README.md" and (path.parent / "__init__.py").exists())  # for readers of the checkout
    }
    assert "edgekit/native/openvino/extension.cpp" in written
    assert written - packed == set()
    assert "edgekit/py.typed" in packed
    recipes = {f"edgekit/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.toml")}
    assert recipes
    assert recipes <= packed
    assert build.compiler() is None or f"edgekit/native/_lib/{build.LIBRARY.name}" in packed
