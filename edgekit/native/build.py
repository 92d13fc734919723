"""Builds the native library with the machine's C++ compiler: `python -m edgekit.native.build`, and setup.py."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
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

# A unit per instruction set, each with its own flags: the rest of the library runs on any CPU of the architecture.

X86_UNITS = {
    "isa_avx2": ("-mavx2", "-mfma"),
    "isa_avxvnni": ("-mavx2", "-mfma", "-mavxvnni"),
    "isa_avx512vnni": (
        "-mavx2",
        "-mfma",
        "-mavx512f",
        "-mavx512bw",
        "-mavx512vl",
        "-mavx512dq",
        "-mavx512vnni",
        "-mprefer-vector-width=512",
    ),
}
ARM_UNITS = {"isa_neon_dotprod": ("-march=armv8.2-a+dotprod",), "isa_neon_i8mm": ("-march=armv8.2-a+dotprod+i8mm",)}


def compiler() -> str | None:
    """The C++ compiler: the environment's CXX, else the first found; None where there is none."""
    wanted = os.environ.get("CXX")
    if wanted:
        return wanted if shutil.which(shlex.split(wanted)[0]) else None
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


def sources() -> list[Path]:
    """Everything the library is made of, sorted."""
    return sorted(
        path for folder in ("include", "src", "ort") for path in (NATIVE / folder).iterdir() if path.suffix != ".md"
    )


def digest() -> str:
    """Of the sources and flags: the library holds the one it was built from."""
    total = hashlib.sha256(repr((FLAGS, X86_UNITS, ARM_UNITS)).encode())
    for path in sources():
        total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def build(target: Path = LIBRARY, *, extra: tuple[str, ...] = (), machine: str = "") -> Path:
    """Compile and link the library to `target`, atomically; `extra` flags reach every step.

    Raises:
        FileNotFoundError: there is no C++ compiler.
        subprocess.CalledProcessError: it refused; its words are in `stderr`.
    """
    cxx = compiler()
    if cxx is None:
        raise FileNotFoundError("no C++ compiler (c++, g++, clang++ or the environment's CXX)")
    arm = (machine or platform.machine()).lower() in ("aarch64", "arm64")
    special = ARM_UNITS if arm else X86_UNITS
    units = [path for path in sources() if path.suffix == ".cpp" and path.stem not in {**X86_UNITS, **ARM_UNITS}]
    units += [NATIVE / "src" / f"{name}.cpp" for name in special]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        common = [*shlex.split(cxx), *FLAGS, *extra, f"-I{NATIVE / 'include'}", f'-DEDGEKIT_SOURCES="{digest()}"']

        def compile_unit(source: Path) -> str:
            out = Path(folder) / f"{source.stem}.o"
            _run([*common, *special.get(source.stem, ()), "-c", str(source), "-o", str(out)])
            return str(out)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(compile_unit, units))
        linked = Path(folder) / target.name
        _run([*shlex.split(cxx), "-shared", *extra, *objects, "-o", str(linked)])
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
