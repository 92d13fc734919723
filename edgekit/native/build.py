"""Builds the native library with the machine's C++ compiler: `python -m edgekit.native.build`, and setup.py."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

NATIVE = Path(__file__).parent
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
LIBRARY = Path(__file__).parent / "_lib" / f"libedgekit_ops{SUFFIX}"
FLAGS = (
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-Wall",
    "-Wno-psabi",
    "-Wno-maybe-uninitialized",  # in the compiler's own headers
    "-Wno-restrict",
    "-Wno-ignored-attributes",
)

INCLUDES = tuple(f"-I{NATIVE / folder}" for folder in ("include", "src"))

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # other names of the same


@dataclass(frozen=True)
class Isa:
    """A row of native/isas.json: an instruction set with its unit `src/isa_<name>.cpp`."""

    name: str
    machine: str  # "x86_64", "aarch64" or "any"
    flags: tuple[str, ...]  # of its unit alone: the rest of the library runs on any CPU of the machine
    lacks: tuple[str, ...]  # prefixes of Linux's names of the CPU features that EDGEKIT_ISA=<name> does without
    tests_only: bool = False  # chosen only where EDGEKIT_ISA names it

    @property
    def unit(self) -> str:
        """Stem of its source file."""
        return f"isa_{self.name}"


def isas(machine: str = "") -> tuple[Isa, ...]:
    """The instruction sets of a machine (this one by default), best first."""
    here = (machine or platform.machine()).lower()
    rows = json.loads((NATIVE / "isas.json").read_text(encoding="utf-8"))["isas"]
    every = (Isa(**{**row, "flags": tuple(row["flags"]), "lacks": tuple(row["lacks"])}) for row in rows)
    return tuple(isa for isa in every if isa.machine in ("any", _MACHINES.get(here, here)))


def unit_flags(machine: str = "") -> dict[str, tuple[str, ...]]:
    """Compiler flags by source stem: those of the instruction sets' units, and the list of units for the dispatcher."""
    rows = isas(machine)
    units = "".join(f"{'TEST_UNIT' if isa.tests_only else 'UNIT'}({isa.name})" for isa in rows)
    return {isa.unit: isa.flags for isa in rows} | {"dispatch": (f"-DEDGEKIT_UNITS={units}",)}


def compiler() -> str | None:
    """The C++ compiler: the environment's CXX, else the first found; None where there is none."""
    wanted = os.environ.get("CXX")
    if wanted:
        return wanted if shutil.which(shlex.split(wanted)[0]) else None
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


def sources() -> list[Path]:
    """Everything the library is made of, sorted."""
    files = (
        path
        for folder in ("include", "src", "model", "ort")
        for path in (NATIVE / folder).iterdir()
        if path.suffix != ".md"
    )
    return sorted([*files, NATIVE / "isas.json"])


def units(machine: str = "") -> list[Path]:
    """The source files to compile for a machine: those of other machines' instruction sets are left out."""
    wanted = {isa.unit for isa in isas(machine)}
    every = (path for path in sources() if path.suffix == ".cpp")
    return [path for path in every if not path.stem.startswith("isa_") or path.stem in wanted]


def digest() -> str:
    """The digest of sources and flags: the library holds the one it was built from."""
    total = hashlib.sha256(repr(FLAGS).encode())
    for path in sources():
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def build(
    target: Path = LIBRARY,
    *,
    extra: tuple[str, ...] = (),
    link: tuple[str, ...] = (),
    machine: str = "",
    cxx: str | None = None,
    of_units: Mapping[str, tuple[str, ...]] | None = None,
) -> Path:
    """Compile and link the library to `target`, atomically.

    Args:
        target: the library.
        extra: flags that reach every step.
        link: flags of the last step alone.
        machine: "x86_64" or "aarch64"; "" is this one.
        cxx: command of the compiler; None takes `compiler()`.
        of_units: flags of single units by source stem; None takes `unit_flags`.

    Raises:
        FileNotFoundError: there is no C++ compiler.
        subprocess.CalledProcessError: it refused; its words are in `stderr`.
    """
    cxx = cxx or compiler()
    if cxx is None:
        raise FileNotFoundError("no C++ compiler (c++, g++, clang++ or the environment's CXX)")
    special = unit_flags(machine) if of_units is None else of_units
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        common = [*shlex.split(cxx), *FLAGS, *extra, *INCLUDES, f'-DEDGEKIT_SOURCES="{digest()}"']

        def compile_unit(source: Path) -> str:
            out = Path(folder) / f"{source.stem}.o"
            _run([*common, *special.get(source.stem, ()), "-c", str(source), "-o", str(out)])
            return str(out)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(compile_unit, units(machine)))
        linked = Path(folder) / target.name
        _run([*shlex.split(cxx), "-shared", *extra, *link, *objects, "-o", str(linked)])
        os.replace(linked, target)
    return target


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def main() -> int:
    """Build; 0 when it worked, else the compiler's words and 1."""
    try:
        print(build())
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
