"""Whether this CPU's u8*s8 products saturate: x86 without VNNI adds pairs of them in 16 bits."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_X86 = {"x86_64", "amd64", "i386", "i686", "x86"}


@cache
def cpu_saturates() -> bool:
    """True on x86 unless VNNI is seen; where the flags cannot be read (Windows, Intel Macs) caution says True.

    255 * 127 * 2 = 64770 does not fit the int16 of AVX2's vpmaddubsw; AVX512-VNNI, AVX-VNNI and Arm sum in int32.
    """
    if platform.machine().lower() not in _X86:
        return False
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return not flags & {"avx512_vnni", "avx_vnni"}
