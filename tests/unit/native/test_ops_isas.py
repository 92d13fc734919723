"""Every instruction set that this CPU runs, in a process of its own, against the definition in numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import native as ops
from edgekit.native import build, wasm
from tests.support import wasm_ops

HERE = Path(__file__).parent
ISAS = {isa.name: isa for machine in ("x86_64", "aarch64") for isa in build.isas(machine)}
WASM = {isa.name: isa for isa in wasm.ISAS}
PARITY = [sys.executable, "-m", "pytest", str(HERE / "test_ops_parity.py"), "-p", "no:cacheprovider"]


@pytest.mark.parametrize("isa", sorted(ISAS))
def test_parity_on_each_instruction_set(isa: str) -> None:
    ops.ort_library()
    if isa not in ops.native_status().isas and not ISAS[isa].tests_only:
        pytest.skip(f"this CPU has no {isa}: {ops.native_status().isas}")
    if isa == ops.isa():
        pytest.skip("test_ops_parity.py has it")
    environment = {**os.environ, "EDGEKIT_ISA": isa}
    said = subprocess.run(
        [sys.executable, "-c", "from edgekit import ops; print(ops.isa())"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == isa
    done = subprocess.run(PARITY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.skipif(wasm_ops.missing() is not None, reason=str(wasm_ops.missing()))
@pytest.mark.parametrize("isa", WASM)
def test_parity_in_webassembly(isa: str) -> None:
    """In Node; which relaxed dot product is exact depends on its release and on the CPU."""
    try:
        wasm_ops.kernels(isa).close()
    except RuntimeError as error:
        pytest.skip(str(error))
    environment = {**os.environ, "EDGEKIT_TEST_WASM": isa}
    done = subprocess.run(PARITY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.skipif(wasm_ops.missing() is not None, reason=str(wasm_ops.missing()))
def test_the_webassembly_libraries_are_small_and_the_last_runs_everywhere() -> None:
    libraries = wasm.wasm_libraries()
    assert [path.name for path in libraries] == [wasm.file_of(isa) for isa in WASM]
    assert all(path.stat().st_size <= 240_000 for path in libraries)
    last = wasm_ops.kernels([*WASM][-1])
    assert last.opened["isa"] == "base"
    last.close()


def test_an_instruction_set_for_tests_is_listed_and_chosen_by_nobody() -> None:
    ops.ort_library()
    hidden = {name for name, isa in ISAS.items() if isa.tests_only}
    assert hidden
    assert not hidden & {*ops.native_status().isas, ops.native_status().isas[0]}


def test_each_row_of_the_table_is_a_file_and_each_file_a_row() -> None:
    assert {f"{isa.unit}.cpp" for isa in (ISAS | WASM).values()} == {
        path.name for path in (build.NATIVE / "src").glob("isa_*.cpp")
    }


def test_status_names_the_library_and_the_compiler() -> None:
    path = ops.ort_library()
    status = ops.native_status()
    assert status.library == path
    assert not status.stale
    assert status.isa == status.isas[0] or "EDGEKIT_ISA" in os.environ
    assert status.isas[-1] == "base"


def test_an_instruction_set_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.errors import BackendMissing

    monkeypatch.setenv("EDGEKIT_ISA", "avx1024")
    with pytest.raises(BackendMissing, match=r"avx1024.*one of .*base"):
        ops.ort_library()


def test_an_edited_source_makes_the_library_stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgekit.errors import BackendMissing

    ops.ort_library()
    monkeypatch.setattr(build, "digest", lambda: "0123456789abcdef")
    assert ops.native_status().stale
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "no" / build.LIBRARY.name)
    monkeypatch.setattr(build, "compiler", lambda: None)
    with pytest.raises(BackendMissing, match=r"no C\+\+ compiler.*edgekit\.native\.build"):
        ops.ort_library()
