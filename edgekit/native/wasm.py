"""Builds the WebAssembly libraries of the npm package `@edgekit/web` with zig: `python -m edgekit.native.wasm`."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgekit.errors import BackendMissing
from edgekit.native import build

FOLDER = build.LIBRARY.parent
LIBRARIES = ("edgekit-relaxed.wasm", "edgekit-simd.wasm")
"""With relaxed dot products, whose units look at the start whether this engine is exact; with SIMD128 alone."""

COMMAND = "pip install ziglang && python -m edgekit.native.wasm"
_TARGET = ("-target", "wasm32-wasi", "-mexec-model=reactor")
_FLAGS = (
    "-std=c++20",
    "-O3",
    "-fno-math-errno",
    "-msimd128",
    "-fignore-exceptions",  # WebAssembly's own are not everywhere yet: what would throw, memory that is short, traps
    "-fno-rtti",
    "-DNDEBUG",
    "-Wall",
    "-Wno-psabi",
)
_LINK = ("-Wl,--gc-sections", "-Wl,--strip-all", "-Wl,-z,stack-size=1048576")
_ALLOCATION = ("malloc", "free")


def zig() -> list[str] | None:
    """The command of zig: of the package `ziglang`, else the one on the path; None where there is none."""
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang"]
    found = shutil.which("zig")
    return [found] if found else None


def wasm_libraries() -> list[Path]:
    """The WebAssembly libraries; a checkout builds them first where it must.

    Raises:
        BackendMissing: they are not there, or of other sources, and cannot be built.
    """
    paths = [FOLDER / name for name in LIBRARIES]
    if all(path.is_file() and digest().encode() in path.read_bytes() for path in paths):
        return paths
    try:
        return build_wasm()
    except FileNotFoundError as error:
        why = str(error)
    except subprocess.CalledProcessError as error:
        why = next((line for line in error.stderr.splitlines() if "error" in line), "the compiler failed")
    raise BackendMissing("the WebAssembly library is not built", why=why, fix=COMMAND)


def digest() -> str:
    """The digest of sources and flags: the libraries hold the one they were built from."""
    return hashlib.sha256(repr((build.digest(), _TARGET, _FLAGS, _LINK)).encode()).hexdigest()[:16]


def functions() -> list[str]:
    """Names of all functions of the C interface, as the headers declare them."""
    headers = sorted((build.NATIVE / "include").glob("*.h"))
    texts = "".join(path.read_text(encoding="utf-8") for path in headers)
    return sorted(set(re.findall(r"^EDGEKIT_API [^;(]*?\b(edgekit_\w+)\(", texts, re.MULTILINE)))


def build_wasm(folder: Path = FOLDER) -> list[Path]:
    """Compile and link both libraries into `folder`; each appears whole or not at all.

    Raises:
        FileNotFoundError: there is no zig.
        subprocess.CalledProcessError: it refused; its words are in `stderr`.
    """
    compiler = zig()
    if compiler is None:
        raise FileNotFoundError("no zig here: neither the package ziglang nor a program of that name")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [isa for isa in build.isas("wasm32") if not isa.tests_only]
    plain = [isa for isa in rows if not isa.flags]
    return [
        _built([*compiler, "c++", *_TARGET], folder / name, isas)
        for name, isas in zip(LIBRARIES, (rows, plain), strict=True)
    ]


def _built(compiler: Sequence[str], target: Path, isas: Sequence[build.Isa]) -> Path:
    """One library of the kernels of `isas`."""
    flags = {isa.unit: isa.flags for isa in isas}
    flags["dispatch"] = ("-DEDGEKIT_UNITS=" + "".join(f"UNIT({isa.name})" for isa in isas),)
    units = [path for path in build.sources() if path.suffix == ".cpp" and path.parent.name == "src"]
    units = [path for path in units if not path.stem.startswith("isa_") or path.stem in flags]
    common = [*compiler, *_FLAGS, f"-I{build.NATIVE / 'include'}", f'-DEDGEKIT_SOURCES="{digest()}"']
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:

        def compile_unit(source: Path) -> str:
            out = Path(folder) / f"{source.stem}.o"
            _run([*common, *flags.get(source.stem, ()), "-c", str(source), "-o", str(out)])
            return str(out)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            objects = list(pool.map(compile_unit, units))
        exports = [f"-Wl,--export={name}" for name in (*functions(), *_ALLOCATION)]
        linked = Path(folder) / target.name
        _run([*compiler, *_LINK, *exports, *objects, "-o", str(linked)])
        os.replace(linked, target)
    return target


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def main(words: Sequence[str] | None = None) -> int:
    """Build; 0 when it worked, else the compiler's words and 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=FOLDER, help=f"folder of the libraries; default {FOLDER}")
    try:
        for path in build_wasm(parser.parse_args(words).to):
            print(f"{path}  {path.stat().st_size / 1000:.0f} KB")
    except FileNotFoundError as error:
        print(f"{error}\n{COMMAND}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
