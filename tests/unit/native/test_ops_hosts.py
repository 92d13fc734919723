"""The kernels in a plain C++ host: AArch64 under emulation, and x86-64 under sanitizers (full tier)."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgekit.native import build
from edgekit.native.reference import fused_qkv_attention, qvit_block, vit_block
from tests.support.ops_build import compiled
from tests.support.ops_models import block_weights, float_weights, rope_tables

pytestmark = pytest.mark.full
CROSS = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")
SIMDE = Path("/usr/include/simde")
SHIM = r"""
#include <cpuid.h>
#include <immintrin.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/dpwssd.h>
#define _mm256_dpbusd_avx_epi32(s, a, b) __m256i(simde_mm256_dpbusd_epi32(s, a, b))
#define _mm256_dpwssd_avx_epi32(s, a, b) __m256i(simde_mm256_dpwssd_epi32(s, a, b))
#define __get_cpuid_count(leaf, subleaf, a, b, c, d) \
    (__get_cpuid_count(leaf, subleaf, a, b, c, d) && ((subleaf) == 1 ? (*(a) = 16) : 1))
"""


@dataclass(frozen=True)
class Case:
    header: tuple[int, ...]  # of `Header` in ops_host.cpp
    arrays: list[np.ndarray]
    expected: np.ndarray | None  # None: what is not finite has no figures to compare
    bound: float = 0

    def write(self, path: Path) -> None:
        content = struct.pack("<11q2f", *self.header, np.float32(0.3), np.float32(1e-6))
        path.write_bytes(content + b"".join(np.ascontiguousarray(a).tobytes() for a in self.arrays))


def cases(tiles: bool) -> list[Case]:
    rng = np.random.default_rng(11)
    found = []
    for tokens, heads, dim in ((1, 1, 64), (37, 2, 64), (70, 3, 20), (400, 1, 64)):
        for kind, mode in enumerate(("f32", "hybrid", "u8", "i16", "bf16" if tiles else "f32")):
            qkv = rng.standard_normal((2, tokens, 3 * heads * dim)).astype(np.float32)
            y = fused_qkv_attention(qkv, heads=heads, scale=np.float32(0.3), mode=mode)
            header = (0, 2, tokens, heads * dim, 0, heads, kind, 0, 3, 0, 0)
            found.append(Case(header, [qkv], y, 3e-6 if mode == "f32" else 3e-3))
    for width, hidden, heads, bits, gain in (
        (64, 128, 1, 8, 0),
        (48, 100, 3, 7, 1),
        (20, 36, 2, 8, 1),
        (72, 1000, 2, 8, 0),
    ):
        x = rng.standard_normal((2, 29, width)).astype(np.float32)
        for kind, tier in enumerate(("speed", "quality")):
            weights = block_weights(width, hidden, bits=bits, gain=bool(gain))
            mode = "bf16" if tiles else None
            y = qvit_block(x, weights, heads=heads, scale=np.float32(0.3), tier=tier, attention=mode)
            header = (1, 2, 29, width, hidden, heads, kind, gain, 3, 0, 0)
            found.append(Case(header, [x, *weights.inputs()], y, 8e-3 if kind == 0 else 1.5e-3 if tiles else 3e-4))
            for value in (np.nan, np.inf, -np.inf, 1e38, 3e38):
                odd = x.copy()
                odd[0, 3, 2] = odd[1, :, 5] = value
                found.append(Case(header, [odd, *weights.inputs()], None))
        exact = float_weights(width, hidden)
        y = vit_block(x, exact, heads=heads, scale=np.float32(0.3))
        found.append(Case((1, 2, 29, width, hidden, heads, 2, 0, 3, 0, 0), [x, *exact.inputs()], y, 3e-6))
    found += rotated_cases(rng, tiles)
    for kind in range(5):
        qkv = rng.standard_normal((1, 70, 3 * 64)).astype(np.float32)
        qkv[0, 5, 7], qkv[0, 6, 100], qkv[0, 7, 130] = np.nan, 1e38, -np.inf
        found.append(Case((0, 1, 70, 64, 0, 1, kind, 0, 3, 0, 0), [qkv], None))
    return found


def rotated_cases(rng: np.random.Generator, tiles: bool) -> list[Case]:
    """SwiGLU and rotary positions, of some tokens or all: in every tier, and in attention alone."""
    found = []
    for width, hidden, heads, tokens in ((64, 128, 1, 24), (40, 100, 2, 29), (24, 36, 2, 0)):
        x = rng.standard_normal((2, 29, width)).astype(np.float32)
        rope = rope_tables(tokens, width // heads)
        given = {"heads": heads, "scale": np.float32(0.3), "rope": rope}
        for kind, tier in enumerate(("speed", "quality")):
            weights = block_weights(width, hidden, gated=True, gain=width == 40)
            y = qvit_block(x, weights, tier=tier, attention="bf16" if tiles else None, **given)
            header = (1, 2, 29, width, hidden, heads, kind, int(width == 40), 3, 1, tokens)
            arrays = [x, *weights.inputs(), *rope]
            found.append(Case(header, arrays, y, 8e-3 if kind == 0 else 1.5e-3 if tiles else 3e-4))
        exact = float_weights(width, hidden, gated=True)
        header = (1, 2, 29, width, hidden, heads, 2, 0, 3, 1, tokens)
        found.append(Case(header, [x, *exact.inputs(), *rope], vit_block(x, exact, **given), 3e-6))
        qkv = rng.standard_normal((2, 29, 3 * width)).astype(np.float32)
        header = (0, 2, 29, width, 0, heads, 0, 0, 3, 0, tokens)
        found.append(Case(header, [qkv, *rope], fused_qkv_attention(qkv, **given), 3e-6))
    return found


def said_by(command: list[str], case: Case, folder: Path, environment: dict[str, str] | None = None) -> dict[str, str]:
    """What the host says of itself; its result is in `folder`."""
    case.write(folder / "case")
    done = subprocess.run(
        [*command, str(folder / "case"), str(folder / "result")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, f"case {case.header}: {done.stderr[-3000:]}"
    return dict(zip(("isa", "requests"), done.stdout.split(), strict=True))


def check_all(command: list[str], folder: Path, isa: str, environment: dict[str, str] | None = None) -> None:
    """Run every case on the instruction set that is expected to be in use."""
    for number, case in enumerate(cases(tiles=isa.startswith("amx"))):
        assert said_by(command, case, folder, environment)["isa"] == isa
        if case.expected is None:
            continue
        y = np.fromfile(folder / "result", np.float32).reshape(case.expected.shape)
        error = np.linalg.norm(y - case.expected) / np.linalg.norm(case.expected)
        assert error < case.bound, f"case {number} {case.header}: {error:.2e}"


@pytest.fixture(scope="module")
def arm_host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if CROSS is None or EMULATOR is None:
        pytest.skip("needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu qemu-user)")
    return compiled(tmp_path_factory.mktemp("arm"), CROSS, "aarch64", "-static")


@pytest.mark.parametrize(
    ("cpu", "isa"), [("cortex-a53", "base"), ("neoverse-n1", "neon_dotprod"), ("max", "neon_i8mm")]
)
def test_aarch64(arm_host: Path, tmp_path: Path, cpu: str, isa: str) -> None:
    assert EMULATOR is not None
    check_all([EMULATOR, "-cpu", cpu, str(arm_host)], tmp_path, isa)


def test_aarch64_runs_the_emulated_tiles(arm_host: Path, tmp_path: Path) -> None:
    assert EMULATOR is not None
    check_all([EMULATOR, "-cpu", "max", str(arm_host)], tmp_path, "amx_emulated", {"EDGEKIT_ISA": "amx_emulated"})


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="emulates an extension of x86-64")
@pytest.mark.skipif(not SIMDE.is_dir(), reason="needs SIMDe (Debian: libsimde-dev)")
def test_avxvnni_through_simde(tmp_path: Path) -> None:
    """AVX-VNNI's two instructions in portable code, for CPUs without it."""
    compiler = build.compiler()
    assert compiler is not None
    shim = tmp_path / "avxvnni.h"
    shim.write_text(SHIM)
    unit = ("-mavx2", "-mfma", "-D__AVXVNNI__", "-include", str(shim))
    host = compiled(tmp_path, compiler, "x86_64", special={"isa_avxvnni": unit})
    check_all([str(host)], tmp_path, "avxvnni", {"EDGEKIT_ISA": "avxvnni"})


@pytest.fixture(scope="module")
def tile_host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine whose best instruction set is AMX: the emulated unit is not for tests only there."""
    compiler = build.compiler()
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("tiles")
    return compiled(folder, compiler, platform.machine(), isas=("amx_emulated", "base"))


def test_tiles_are_asked_for_once_where_they_are_the_best_there_is(tile_host: Path, tmp_path: Path) -> None:
    for case in cases(tiles=True)[:3]:
        assert said_by([str(tile_host)], case, tmp_path) == {"isa": "amx_emulated", "requests": "1"}


def test_a_refusal_falls_back_without_a_word(tile_host: Path, tmp_path: Path) -> None:
    refused = {"EDGEKIT_EMULATED_AMX": "refused"}
    assert said_by([str(tile_host)], cases(tiles=False)[0], tmp_path, refused) == {"isa": "base", "requests": "1"}
    check_all([str(tile_host)], tmp_path, "base", refused)


def test_who_names_a_lower_instruction_set_never_asks_for_tiles(tile_host: Path, tmp_path: Path) -> None:
    said = said_by([str(tile_host)], cases(tiles=False)[0], tmp_path, {"EDGEKIT_ISA": "base"})
    assert said == {"isa": "base", "requests": "0"}


def test_tiles_of_another_user_of_the_thread_stay_configured(tile_host: Path, tmp_path: Path) -> None:
    check_all([str(tile_host)], tmp_path, "amx_emulated", {"FOREIGN_TILES": "1"})


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the sanitizers' flags are those of x86-64")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers(tmp_path: Path, sanitizer: str) -> None:
    compiler = build.compiler()
    assert compiler is not None
    flags = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-O1", "-g")
    host = compiled(tmp_path, compiler, "x86_64", *flags)
    best = said_by([str(host)], cases(tiles=False)[0], tmp_path)["isa"]
    for isa in ("base", "amx_emulated", best):
        check_all([str(host)], tmp_path, isa, {"EDGEKIT_ISA": isa, "FOREIGN_TILES": "1"})
