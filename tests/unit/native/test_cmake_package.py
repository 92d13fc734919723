"""libedgekit as CMake installs it: an app in C finds it by CMake's package and by pkg-config (full tier)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from edgekit.backends import get_backend
from edgekit.backends.source import ExportSource
from edgekit.models.vit import random_model
from edgekit.native import build
from tests.support.models import TINY_REG
from tests.support.plans import rtn_plan

pytestmark = pytest.mark.full
HOST = Path(__file__).parents[2] / "support" / "model_host.c"
SIZE = (56, 70)
LISTS = """
cmake_minimum_required(VERSION 3.19)
project(app LANGUAGES C CXX)
find_package(edgekit REQUIRED)
add_executable(app model_host.c)
target_link_libraries(app PRIVATE edgekit::edgekit)
"""


def said(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("cmake") or not shutil.which("cc"):
        pytest.skip("needs cmake and a C compiler")
    folder = tmp_path_factory.mktemp("cmake")
    said("cmake", "-S", build.NATIVE, "-B", folder / "build", "-DEDGEKIT_OPS=OFF", "-DCMAKE_INSTALL_LIBDIR=lib")
    said("cmake", "--build", folder / "build", "--parallel")
    said("cmake", "--install", folder / "build", "--prefix", folder / "prefix", "--strip")
    return folder / "prefix"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    baked = random_model(TINY_REG).bake(*SIZE)
    plan = rtn_plan(baked, torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(0)))
    source = ExportSource(baked, TINY_REG.preprocess(*SIZE), plan, "tiny", "MIT", "0" * 64, "digest")
    path = tmp_path_factory.mktemp("model") / "model_w8a8.edgekit"
    get_backend("edgekit").export(source, "w8a8", "standard", path)
    return path


def test_the_library_is_smaller_than_a_megabyte(prefix: Path) -> None:
    assert (prefix / "lib" / "libedgekit.so").stat().st_size < 1_000_000


def test_an_app_finds_the_package(prefix: Path, model: Path, tmp_path: Path) -> None:
    shutil.copy(HOST, tmp_path)
    (tmp_path / "CMakeLists.txt").write_text(LISTS)
    said("cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    said("cmake", "--build", tmp_path / "build")
    assert said(tmp_path / "build" / "app", model).startswith("last_hidden_state 128 0.99")


def test_an_app_finds_the_library_by_pkg_config(prefix: Path, model: Path, tmp_path: Path) -> None:
    if not shutil.which("pkg-config"):
        pytest.skip("needs pkg-config")
    flags = said("pkg-config", "--cflags", "--libs", "edgekit", PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig"))
    said("cc", HOST, *flags.split(), "-o", tmp_path / "app")
    found = said(tmp_path / "app", model, LD_LIBRARY_PATH=str(prefix / "lib"))
    assert found.startswith("last_hidden_state 128 0.99")


def test_the_program_passes_a_models_own_test(prefix: Path, model: Path) -> None:
    assert "passed" in said(prefix / "bin" / "edgekit-run", model, "--check")
