"""What edgekit takes the CPU for: its own flags, less those that EDGEKIT_ISA forgoes."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from benchmarks.support import older_cpu
from edgekit import cpu
from edgekit.host import describe_host

CPUINFO = "processor: 0\nflags\t\t: fpu avx avx2 fma avx512f avx512_vnni amx_int8\nbogomips: 1\n"


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *a, **k: CPUINFO if path == Path("/proc/cpuinfo") else real(path, *a, **k)
    )
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("EDGEKIT_ISA", raising=False)


@pytest.mark.parametrize(
    ("isa", "missing", "saturates"),
    [
        (None, set(), False),
        ("amx", set(), False),
        ("avx512vnni", {"amx_int8"}, False),
        ("avx2", {"avx512f", "avx512_vnni", "amx_int8"}, True),
        ("base", {"avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_int8"}, True),
    ],
)
def test_an_instruction_set_asked_for_hides_those_above(
    isa: str | None, missing: set[str], saturates: bool, flags: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isa:
        monkeypatch.setenv("EDGEKIT_ISA", isa)
    assert {"fpu", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_int8"} - cpu.cpu_flags() == missing
    assert cpu.cpu_saturates() == saturates
    host = describe_host()
    assert not missing & set(host.isa)
    assert host.cpu.endswith(f" as {isa}" if isa else host.cpu)


def test_flags_that_cannot_be_read_mean_caution(flags: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", fails)
    assert cpu.cpu_flags() == frozenset()
    assert cpu.cpu_saturates()


def test_code_of_an_older_cpu_answers_only_the_question_after_avx_512() -> None:
    asked = b"\x31\xc9\x0f\x01\xd0\x48\xc1\xe8\x13"  # xor ecx, ecx; xgetbv; shr rax, 19
    joined = b"\x48\x89\xd5\x0f\x01\xd0\x89\xc0\x48\xc1\xe2\x20"  # xgetbv; mov eax, eax; shl rdx, 32
    other = b"\x83\xe0\x0f\x01\xd0\x41"  # and eax, 15; add eax, edx
    code, answered = older_cpu.lowered(asked + joined + other)
    assert answered == 2
    assert (
        code
        == asked.replace(b"\x0f\x01\xd0", b"\x6a\x07\x58") + joined.replace(b"\x0f\x01\xd0", b"\x6a\x07\x58") + other
    )
