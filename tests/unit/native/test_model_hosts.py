"""Whole models in `edgekit-run`: AArch64 under emulation, x86-64 under sanitizers with hostile files (full tier)."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.backends import get_backend
from edgekit.backends.source import ExportSource
from edgekit.heads.classification import LinearClassifier
from edgekit.models.config import ViTConfig
from edgekit.models.vit import random_model
from edgekit.native import build
from edgekit.native.model import NativeModel
from tests.hostile.test_runtime_files import BYTES, DESCRIPTION, HEADER, joined, taken_apart
from tests.support.models import TINY_REG, TINY_ROPE_SWIGLU
from tests.support.ops_build import RUN, compiled
from tests.support.plans import rtn_plan

pytestmark = pytest.mark.full
CROSS = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")
KINDS = ("fp32", "w8a8", "w8a16")
PICTURE = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`NAME_model_w8a8.edgekit` and so on of two tiny models with a classifier, and picture.ppm."""
    folder = tmp_path_factory.mktemp("models")
    for config in (TINY_REG, TINY_ROPE_SWIGLU):
        write(config, folder)
    height, width, _ = PICTURE.shape
    (folder / "picture.ppm").write_bytes(b"P6\n# a comment\n%d %d\n255\n" % (width, height) + PICTURE.tobytes())
    return folder


def write(config: ViTConfig, folder: Path) -> None:
    backend, size = get_backend("edgekit"), (4 * config.patch, 5 * config.patch)
    model = random_model(config).bake(*size)
    plan = rtn_plan(model, torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0)))
    weight = np.random.default_rng(0).standard_normal((5, 2 * config.width)).astype(np.float32)
    heads = {"logits": LinearClassifier(weight, np.zeros(5, np.float32), (config.depth - 1,))}
    source = ExportSource(model, config.preprocess(*size), plan, "tiny", "MIT", "0" * 64, "digest", heads=heads)
    for precision in KINDS:
        path = folder / f"{config.arch}_{backend.filename(precision, 'standard')}"
        backend.export(source, precision, "standard", path)


def said(command: list[str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


def check_files(command: list[str], files: Path, isa: str, folder: Path) -> None:
    """Each file passes its own test on that instruction set, and gives the picture Python's features."""
    paths = sorted(files.glob("*.edgekit"))
    assert len(paths) == 2 * len(KINDS)
    for path in paths:
        done = said(command, path, "--check")
        assert done.returncode == 0, done.stderr
        assert f"{isa}: passed" in done.stdout
        out = folder / "tokens"
        arguments = (files / "picture.ppm", "--threads", "3", "--save", f"last_hidden_state={out}")
        done = said(command, path, *arguments)
        assert done.returncode == 0, done.stderr
        expected = NativeModel(path).context().run_picture(PICTURE)["last_hidden_state"]
        found = np.fromfile(out, np.float32).reshape(expected.shape)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < (1e-5 if "w8" not in path.name else 0.03), path.name


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if CROSS is None or EMULATOR is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu qemu-user)")
    return compiled(tmp_path_factory.mktemp("arm"), CROSS, "aarch64", "-static", program=RUN)


@pytest.mark.parametrize(
    ("cpu", "isa"), [("cortex-a53", "base"), ("neoverse-n1", "neon_dotprod"), ("max", "neon_i8mm")]
)
def test_aarch64(arm: Path, files: Path, tmp_path: Path, cpu: str, isa: str) -> None:
    assert EMULATOR is not None
    check_files([EMULATOR, "-cpu", cpu, str(arm)], files, isa, tmp_path)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the sanitizers' flags are those of x86-64")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing_in_sound_and_in_hostile_files(sanitizer: str, files: Path, tmp_path: Path) -> None:
    compiler = build.compiler()
    assert compiler is not None
    flags = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-O1", "-g")
    program = compiled(tmp_path, compiler, "x86_64", *flags, isas=("avx2", "base"), program=RUN)
    best = said([str(program)], files / "tiny_reg_model.edgekit", "--check").stdout
    check_files([str(program)], files, "avx2" if "avx2: passed" in best else "base", tmp_path)
    whole = (files / "tiny_reg_model_w8a8.edgekit").read_bytes()
    path = tmp_path / "hostile.edgekit"
    for data in hostile(whole):
        path.write_bytes(data)
        done = said([str(program)], path, "--check")
        assert done.returncode == 1, done.stderr[-3000:]
        assert done.stderr.startswith("edgekit-run: "), done.stderr[-3000:]


def hostile(whole: bytes) -> list[bytes]:
    """The files of tests/hostile."""
    made = [damage(whole) for damage, _ in BYTES.values()]
    for change, _ in HEADER.values():
        header, description, tensors = taken_apart(whole)
        change(header)
        made.append(joined(header, description, tensors))
    for change, _ in DESCRIPTION.values():
        header, description, tensors = taken_apart(whole)
        change(description)
        made.append(joined(header, description, tensors))
    return made


def test_mistakes_on_the_command_line_are_said(files: Path, tmp_path: Path) -> None:
    compiler = build.compiler()
    assert compiler is not None
    program = [str(compiled(tmp_path, compiler, platform.machine(), "-O0", isas=("base",), program=RUN))]
    model, picture = files / "tiny_reg_model.edgekit", files / "picture.ppm"
    (tmp_path / "cut.ppm").write_bytes(picture.read_bytes()[:-1])
    for arguments, words in (
        ((), "edgekit-run MODEL.edgekit"),
        ((model,), "edgekit-run MODEL.edgekit"),
        ((tmp_path / "none", "--check"), "cannot be opened"),
        ((tmp_path, "--check"), "is no file"),
        ((model, tmp_path / "none.ppm"), "cannot be opened"),
        ((model, model), "no binary PPM"),
        ((model, tmp_path / "cut.ppm"), "cut short"),
        ((model, picture, "--threads", "0"), "is no number"),
        ((model, picture, "--size", "15x15"), "not a positive multiple of 14"),
        ((model, picture, "--save", "logit=x"), "no output logit"),
        ((model, picture, "--fast"), "unknown option --fast"),
    ):
        done = said(program, *arguments)
        assert done.returncode == 1
        assert words in done.stderr
