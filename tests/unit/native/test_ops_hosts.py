"""The kernels in a plain C++ host: AArch64 under emulation, and x86-64 under sanitizers (full tier)."""

from __future__ import annotations

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
from tests.support.ops_models import block_weights, float_weights

pytestmark = pytest.mark.full
HOST = Path(__file__).parents[2] / "support" / "ops_host.cpp"
CROSS = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")
SIMDE = Path("/usr/include/simde")
SHIM = """
#include <cpuid.h>
#include <immintrin.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/dpwssd.h>
#define _mm256_dpbusd_avx_epi32(s, a, b) __m256i(simde_mm256_dpbusd_epi32(s, a, b))
#define _mm256_dpwssd_avx_epi32(s, a, b) __m256i(simde_mm256_dpwssd_epi32(s, a, b))
#define __get_cpuid_count(leaf, subleaf, a, b, c, d) (*(a) = 16)
"""


@dataclass(frozen=True)
class Case:
    header: tuple[int, ...]
    arrays: list[np.ndarray]
    expected: np.ndarray
    bound: float

    def write(self, path: Path) -> None:
        content = struct.pack("<9q2f", *self.header, np.float32(0.3), np.float32(1e-6))
        path.write_bytes(content + b"".join(np.ascontiguousarray(a).tobytes() for a in self.arrays))


def cases() -> list[Case]:
    rng = np.random.default_rng(11)
    found = []
    for tokens, heads, dim in ((1, 1, 64), (37, 2, 64), (70, 3, 20)):
        for kind, mode in enumerate(("f32", "hybrid", "u8", "i16")):
            qkv = rng.standard_normal((2, tokens, 3 * heads * dim)).astype(np.float32)
            y = fused_qkv_attention(qkv, heads=heads, scale=np.float32(0.3), mode=mode)
            header = (0, 2, tokens, heads * dim, 0, heads, kind, 0, 3)
            found.append(Case(header, [qkv], y, 3e-6 if kind == 0 else 2e-3))
    for width, hidden, heads, bits, gain in ((64, 128, 1, 8, 0), (48, 100, 3, 7, 1), (20, 36, 2, 8, 1)):
        for kind, tier in enumerate(("speed", "quality")):
            weights = block_weights(width, hidden, bits=bits, gain=bool(gain))
            x = rng.standard_normal((2, 29, width)).astype(np.float32)
            y = qvit_block(x, weights, heads=heads, scale=np.float32(0.3), tier=tier)
            header = (1, 2, 29, width, hidden, heads, kind, gain, 3)
            found.append(Case(header, [x, *weights.inputs()], y, 8e-3 if kind == 0 else 3e-4))
        exact = float_weights(width, hidden)
        y = vit_block(x, exact, heads=heads, scale=np.float32(0.3))
        found.append(Case((1, 2, 29, width, hidden, heads, 2, 0, 3), [x, *exact.inputs()], y, 3e-6))
    return found


def compiled(
    folder: Path, compiler: str, machine: str, *flags: str, special: dict[str, tuple[str, ...]] | None = None
) -> Path:
    """The host, with the kernels linked into it; `special` are the flags of each instruction set's unit."""
    special = special or (build.ARM_UNITS if machine == "aarch64" else build.X86_UNITS)
    common = [compiler, *build.FLAGS, *flags, f"-I{build.NATIVE / 'include'}"]
    objects = []
    for source in [HOST, *sorted((build.NATIVE / "src").glob("*.cpp"))]:
        objects.append(str(folder / f"{source.stem}.o"))
        subprocess.run([*common, *special.get(source.stem, ()), "-c", str(source), "-o", objects[-1]], check=True)
    subprocess.run([compiler, *flags, *objects, "-pthread", "-o", str(folder / "host")], check=True)
    return folder / "host"


def check_all(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run every case; returns the name of the instruction set."""
    name = ""
    for number, case in enumerate(cases()):
        given, result = folder / "case", folder / "result"
        case.write(given)
        done = subprocess.run(
            [*command, str(given), str(result)], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, f"case {number}: {done.stderr[-3000:]}"
        y = np.fromfile(result, np.float32).reshape(case.expected.shape)
        error = np.linalg.norm(y - case.expected) / np.linalg.norm(case.expected)
        assert error < case.bound, f"case {number} {case.header}: {error:.2e}"
        name = done.stdout.strip()
    return name


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
    assert check_all([EMULATOR, "-cpu", cpu, str(arm_host)], tmp_path) == isa


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="emulates an extension of x86-64")
@pytest.mark.skipif(not SIMDE.is_dir(), reason="needs SIMDe (Debian: libsimde-dev)")
def test_avxvnni_through_simde(tmp_path: Path) -> None:
    """AVX-VNNI's two instructions in portable code, for CPUs without it."""
    compiler = build.compiler()
    assert compiler is not None
    shim = tmp_path / "avxvnni.h"
    shim.write_text(SHIM)
    unit = ("-mavx2", "-mfma", "-D__AVXVNNI__", "-include", str(shim))
    host = compiled(tmp_path, compiler, "x86_64", special=build.X86_UNITS | {"isa_avxvnni": unit})
    assert check_all([str(host)], tmp_path, {"EDGEKIT_ISA": "avxvnni"}) == "avxvnni"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the sanitizers' flags are those of x86-64")
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers(tmp_path: Path, sanitizer: str) -> None:
    compiler = build.compiler()
    assert compiler is not None
    flags = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-O1", "-g")
    host = compiled(tmp_path, compiler, "x86_64", *flags)
    for isa in ("base", "avx2", ""):
        check_all([str(host)], tmp_path, {"EDGEKIT_ISA": isa})
