"""The machine a number was measured on: processor, instruction sets, memory, system and package versions."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from edgekit.artifact import FORMATS, Frozen
from edgekit.cpu import cpu_flags

# Instruction sets that decide which INT8 or FP16 kernel runs, under the names Linux gives them in /proc/cpuinfo.

_X86 = (
    "sse4_1",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx_vnni_int8",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
)
_ARM = ("asimd", "fphp", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme", "sme2")
_APPLE = {
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.fma": "fma",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512bw": "avx512bw",
}
_PACKAGES = (
    "edgekit",
    "numpy",
    "torch",
    *(package for row in FORMATS.values() for package in row.distributions),
    "nncf",
    "litert-torch",
    "tflite-runtime",
)

_MACHINE = ("cpu", "architecture", "isa", "cores", "cores_usable")  # what decides which artifact is fastest


class Host(Frozen):
    """Facts about one machine: `isa` are instruction sets, `cores_usable` cores that this process may use."""

    cpu: str  # "AMD EPYC as avx2" where EDGEKIT_ISA lowers it
    architecture: str  # "x86_64", "arm64"
    isa: tuple[str, ...]
    cores: int
    cores_usable: int
    ram_gb: float
    os: str
    python: str
    packages: dict[str, str]  # installed ones only

    def same_machine(self, other: Mapping[str, Any]) -> bool:
        """Whether a description as in a manifest is of a machine like this: its processor, instructions and cores."""
        return all(_plain(getattr(self, field)) == _plain(other.get(field)) for field in _MACHINE)

    def __str__(self) -> str:
        """`AMD EPYC, 2 cores, avx2 avx512_vnni`."""
        wide = [name for name in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm") if name in self.isa]
        return f"{self.cpu}, {self.cores_usable} cores{', ' + ' '.join(wide) if wide else ''}"


def _plain(value: Any) -> Any:
    """Lists and tuples alike: JSON knows lists only."""
    return list(value) if isinstance(value, tuple) else value


def describe_host() -> Host:
    """Read this machine, as far as EDGEKIT_ISA lets it go. Nothing of it names the user, the host or a path."""
    import psutil

    architecture = _architecture()
    return Host(
        cpu=_cpu_name(_read(Path("/proc/cpuinfo"))) + (f" as {isa}" if (isa := os.environ.get("EDGEKIT_ISA")) else ""),
        architecture=architecture,
        isa=_isa(architecture),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        cores_usable=usable_cores(),
        ram_gb=round(psutil.virtual_memory().total / 1e9, 1),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=_versions(),
    )


def _architecture() -> str:
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}.get(machine, machine)


def _isa(architecture: str) -> tuple[str, ...]:
    """Instruction sets from /proc/cpuinfo, else from sysctl; empty where neither exists (Windows)."""
    if present := cpu_flags():
        return tuple(name for name in (_ARM if architecture == "arm64" else _X86) if name in present)
    return tuple(name for key, name in _APPLE.items() if _sysctl(key) == "1")


def _cpu_name(cpuinfo: str) -> str:
    for key in ("model name", "Hardware", "Model", "cpu model"):
        if found := re.search(rf"^{key}\s*:\s*(.+)$", cpuinfo, re.MULTILINE):
            return re.sub(r"\s+", " ", re.sub(r"\((?:R|TM)\)|\bCPU\b|\bProcessor\b", "", found[1])).strip()
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores in this process's affinity mask, cut to the container's quota (cgroup v2) where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(Path("/sys/fs/cgroup/cpu.max")).split()
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return cores


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _sysctl(name: str) -> str:
    if platform.system() != "Darwin":
        return ""
    import subprocess

    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
