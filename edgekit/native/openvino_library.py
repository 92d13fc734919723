"""Builds the OpenVINO extension of the fused ops against the installed OpenVINO, once per version, when first asked."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from edgekit.errors import BackendMissing
from edgekit.native import build
from edgekit.native.library import ort_library

NAME = "libedgekit_openvino.so"
_FLAGS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-D_GLIBCXX_USE_CXX11_ABI=1",
    "-DOV_THREAD=OV_THREAD_TBB_ADAPTIVE",
)
_INSTALL_COMPILER = "install a C++ compiler (Debian, Ubuntu: apt-get install g++)"


def build_extension(kernels: Path, folder: Path) -> Path:
    """The extension in a folder of its own below `folder`, named after OpenVINO's version and all that it is made of.

    An OpenVINO extension belongs to one release, so it cannot be shipped. The kernels are copied beside it: what is
    cached stays whole when the environment it came from moves.

    Args:
        kernels: the shared library with the C interface of edgekit_ops.h.
        folder: cache; what is there already is not built again.

    Raises:
        BackendMissing: OpenVINO or a compiler is missing, or the compiler fails.
    """
    if (spec := find_spec("openvino")) is None or spec.origin is None:
        raise BackendMissing("OpenVINO is not installed", fix="pip install 'edgekit[openvino]'")
    if not sys.platform.startswith("linux"):
        raise BackendMissing(
            f"the OpenVINO extension is not built on {sys.platform}",
            why="it is tried on Linux only",
            fix="run the fused .onnx files in ONNX Runtime",
        )
    source = build.NATIVE / "openvino" / "extension.cpp"
    if not source.is_file():
        raise BackendMissing(
            "the sources of the OpenVINO extension are not installed",
            why=f"{source} is missing",
            fix="pip install --force-reinstall --no-deps edgekit",
        )
    made_of = (Path(__file__), source, build.NATIVE / "include" / "edgekit_ops.h", kernels)
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in made_of)).hexdigest()[:16]
    home = folder / f"openvino-{version('openvino')}-{digest}"
    if not (home / NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build.", dir=folder) as temporary:
            shutil.copy(kernels, Path(temporary) / kernels.name)
            _compile(source, Path(temporary) / kernels.name, Path(spec.origin).parent, Path(temporary) / NAME)
            _publish(Path(temporary), home)
    return home / NAME


@cache
def openvino_extension() -> Path:
    """The library for `openvino.Core.add_extension`, built now if this machine has none for its OpenVINO.

    Raises:
        BackendMissing: OpenVINO, the kernels or a compiler is missing, or the cache cannot be written.
    """
    from edgekit.models.sources import cache_dir

    folder = cache_dir() / "ops"
    try:
        return build_extension(ort_library(), folder)
    except OSError as error:
        raise BackendMissing(
            f"cannot keep the OpenVINO extension in {folder}",
            why=error.strerror or str(error),
            fix="set EDGEKIT_CACHE to a writable folder",
        ) from None


def _compile(source: Path, kernels: Path, openvino: Path, result: Path) -> None:
    """Link against the wheel's own libraries; none of their paths is kept, Python has them loaded already."""
    if (compiler := build.compiler()) is None:
        raise BackendMissing("no C++ compiler to build the OpenVINO extension with", fix=_INSTALL_COMPILER)
    patterns = ("libopenvino.so.*", "libopenvino_onnx_frontend.so.*", "libtbb.so.*")
    libraries = [str(file) for pattern in patterns for file in sorted((openvino / "libs").glob(pattern))]
    if len(libraries) < len(patterns) or not (openvino / "include").is_dir():
        raise BackendMissing(
            f"OpenVINO in {openvino} has no headers or libraries to build against",
            fix="pip install --force-reinstall openvino",
        )
    command = [
        *shlex.split(compiler),
        *_FLAGS,
        f"-I{openvino / 'include'}",
        str(source),
        "-o",
        str(result),
        *libraries,
        f"-L{kernels.parent}",
        f"-l:{kernels.name}",
        "-Wl,-rpath,$ORIGIN",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
        raise BackendMissing(f"{compiler} cannot build the OpenVINO extension", why=lines[0], fix=_INSTALL_COMPILER)


def _publish(made: Path, home: Path) -> None:
    """Rename the finished folder into its place; whoever was first wins, the contents are the same."""
    finished = made.with_name(f"{made.name}.done")
    shutil.copytree(made, finished)
    try:
        os.replace(finished, home)
    except OSError:
        shutil.rmtree(finished, ignore_errors=True)
        if not (home / NAME).exists():
            raise
