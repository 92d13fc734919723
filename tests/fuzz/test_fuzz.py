"""libFuzzer with AddressSanitizer and UndefinedBehaviorSanitizer over the native library (full tier)."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.native import build

pytestmark = pytest.mark.full
HERE = Path(__file__).parent
CLANG = shutil.which("clang++")
SECONDS = int(os.environ.get("EDGEKIT_FUZZ_SECONDS", "60"))  # per target and instruction set
FLAGS = ("-O1", "-g", "-fno-sanitize-recover=all", "-Wno-unknown-warning-option")
SANITIZERS = "address,undefined"
READER = build.NATIVE / "include" / "edgekit_model.h"  # of whole models
TARGETS = ("block", "adapter", *(["model"] if READER.is_file() else []))


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The programs: the library's own units, compiled once, each with another entry."""
    if CLANG is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs clang with libFuzzer on x86-64 (Debian: apt-get install clang libclang-rt-14-dev)")
    folder = tmp_path_factory.mktemp("fuzz")
    common = [CLANG, *build.FLAGS, *FLAGS, f"-fsanitize=fuzzer-no-link,{SANITIZERS}"]
    common += [f"-I{build.NATIVE / each}" for each in ("include", "src", "ort")]
    special = build.unit_flags()

    def compiled(source: Path) -> str:
        out = str(folder / f"{source.parent.name}-{source.stem}.o")
        subprocess.run([*common, *special.get(source.stem, ()), "-c", str(source), "-o", out], check=True)
        return out

    library = [compiled(source) for source in build.units()]
    made = {}
    for name in TARGETS:
        made[name] = folder / name
        entry = compiled(HERE / f"{name}.cpp")
        link = [CLANG, f"-fsanitize=fuzzer,{SANITIZERS}", *library, entry, "-pthread", "-o", str(made[name])]
        subprocess.run(link, check=True)
    return made


@pytest.mark.parametrize("isa", ["base", "amx_emulated", "best"])
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found(targets: dict[str, Path], tmp_path: Path, name: str, isa: str) -> None:
    """The kept corpus first, then new cases for a minute; what is found lies in a file that the message names."""
    found = tmp_path / "found"
    found.mkdir()
    command = [str(targets[name]), f"-max_total_time={SECONDS}", "-seed=1", "-timeout=60", "-rss_limit_mb=3000"]
    command += ["-len_control=0", f"-max_len={40_000 if name == 'model' else 600}"]  # bytes: a case reads some 300
    command += [f"-artifact_prefix={tmp_path}/", "-print_final_stats=1", str(found), str(HERE / "corpus" / name)]
    environment = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    environment |= {} if isa == "best" else {"EDGEKIT_ISA": isa}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environment)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "stat::number_of_executed_units" in done.stderr
