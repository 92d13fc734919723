"""Runs every runtime as on a CPU without AVX-512, and so without its VNNI, on one that has them.

A program may use AVX-512 only where the operating system keeps its registers, and asks for that with the instruction
`xgetbv`. In copies of the installed packages each such instruction is replaced by one that answers: AVX and no more.
What they do then is what they do on an older CPU: the library that chooses kernels is the one that everybody has.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

ISA = "avx2"
PACKAGES = ("onnxruntime", "openvino", "ai_edge_litert", "torch")
# `xor ecx, ecx; xgetbv`, or `xgetbv` and the joining of its two halves: the three bytes alone occur elsewhere too
QUESTION = re.compile(rb"(?<=\x31\xc9)\x0f\x01\xd0|\x0f\x01\xd0(?=\x89\xc0\x48\xc1)")
AVX_AND_NO_MORE = b"\x6a\x07\x58"  # push 7; pop rax: x87, SSE and AVX


def environment(folder: Path) -> dict[str, str]:
    """Variables under which processes started from now on see an older CPU.

    Args:
        folder: keeps the copies; made unless it is there.

    Raises:
        SystemExit: a package asks in a way that is not known here: it would go on using AVX-512, unnoticed.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin and not (folder / name).exists():
            _copy(Path(spec.origin).parent, folder / name)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "EDGEKIT_ISA": ISA}


def begin_again(folder: Path) -> None:
    """Run this module in place of itself as on an older CPU; does nothing in the one that runs so."""
    if os.environ.get("EDGEKIT_ISA") != ISA:
        spec = sys.modules["__main__"].__spec__
        assert spec is not None  # experiments are run as `python -m benchmarks.<name>`
        command = [sys.executable, "-m", spec.name, *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | environment(folder.resolve()))


def lowered(code: bytes) -> tuple[bytes, int]:
    """Machine code that takes its CPU for an older one, and how many questions were answered in it."""
    return QUESTION.subn(AVX_AND_NO_MORE, code)


def _copy(package: Path, target: Path) -> None:
    partial = target.with_name(f"partial_{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(package, partial, ignore=shutil.ignore_patterns("__pycache__"))
    total = 0
    for library in partial.rglob("*.so*"):
        code, answered = lowered(library.read_bytes())
        if answered:
            library.write_bytes(code)
        total += answered
    if not total:
        raise SystemExit(f"no library of {package.name} asks for AVX-512 in a way that older_cpu.py knows")
    partial.rename(target)
