"""The instruction sets edgekit reckons with on this CPU, and whether u8*s8 products saturate with them."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from edgekit.native.build import isas

_X86 = {"x86_64", "amd64", "i386", "i686", "x86"}


def cpu_flags() -> frozenset[str]:
    """Linux's names of this CPU's features, without those that EDGEKIT_ISA forgoes; none where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    forced = os.environ.get("EDGEKIT_ISA")
    beyond = next((isa.lacks for isa in isas() if isa.name == forced), ())
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return frozenset(flag for flag in flags if not flag.startswith(beyond))


def cpu_saturates() -> bool:
    """True on x86 unless VNNI is seen; where the flags cannot be read (Windows, Intel Macs) caution says True.

    255 * 127 * 2 = 64770 does not fit the int16 of AVX2's vpmaddubsw; AVX512-VNNI, AVX-VNNI and Arm sum in int32.
    """
    return platform.machine().lower() in _X86 and not cpu_flags() & {"avx512_vnni", "avx_vnni"}
