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
ISAS = tuple(isa for isa in build.isas("wasm32") if not isa.tests_only)
"""One library for each: a page looks which relaxed dot product its engine has, and downloads no other's kernels."""

COMMAND = "pip install ziglang && python -m edgekit.native.wasm"
_TARGET = ("-target", "wasm32-wasi", "-mexec-model=reactor")
_FLAGS = (
    "-std=c++20",
    "-Oz",
    "-fno-math-errno",
    "-msimd128",
    "-fno-exceptions",  # WebAssembly's own are not everywhere yet: where memory ends, so does the instance
    "-fno-rtti",
    "-fno-c++-static-destructors",  # an instance has no end to run them at
    "-Wall",
    "-Wno-psabi",
)
_KERNELS = ("-O3",)
_LINK = ("-Wl,--gc-sections", "-Wl,--strip-all", "-Wl,-z,stack-size=1048576")
_ALLOCATION = ("malloc", "free")
_DIGESTED = "c_api"  # the unit that names the sources: no other is compiled again because they have changed
_LEFT_OUT = ("bench", "file")  # speed in registers, and models from paths: a page has no use for them


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
    try:
        return _fresh() or build_wasm()
    except OSError as error:  # no zig, or a folder that is not to be written
        why = str(error)
    except subprocess.CalledProcessError as error:
        why = next((line for line in error.stderr.splitlines() if "error" in line), "the compiler failed")
    raise BackendMissing("the WebAssembly library is not built", why=why, fix=COMMAND)


def copied(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Copies of the libraries in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(path, folder / path.name)) for path in paths]


def _fresh() -> list[Path]:
    """The libraries; none where one is not there, or of other sources."""
    paths = [FOLDER / file_of(isa.name) for isa in ISAS]
    return paths if all(path.is_file() and digest().encode() in path.read_bytes() for path in paths) else []


def digest() -> str:
    """The digest of sources and flags: the libraries hold the one they were built from."""
    return hashlib.sha256(repr((build.digest(), _TARGET, _FLAGS, _KERNELS, _LINK)).encode()).hexdigest()[:16]


def functions() -> list[str]:
    """Names of the functions of the C interface, as the headers declare them, that these libraries have."""
    headers = "".join(path.read_text(encoding="utf-8") for path in sorted((build.NATIVE / "include").glob("*.h")))
    declared = set(re.findall(r"^EDGEKIT_API [^;(]*?\b(edgekit_\w+)\(", headers, re.MULTILINE))
    absent = "".join(path.read_text(encoding="utf-8") for path in build.sources() if path.stem in _LEFT_OUT)
    return sorted(name for name in declared if not re.search(rf"^\w+ {name}\(", absent, re.MULTILINE))


def build_wasm(folder: Path = FOLDER) -> list[Path]:
    """Compile and link all libraries into `folder`; each appears whole or not at all.

    Raises:
        FileNotFoundError: there is no zig.
        subprocess.CalledProcessError: it refused; its words are in `stderr`.
    """
    program = zig()
    if program is None:
        raise FileNotFoundError("no zig here: neither the package ziglang nor a program of that name")
    compiler = [*program, "c++", *_TARGET]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        common = _compiled(compiler, Path(scratch))
        neutral = [path for stem, path in common.items() if not stem.startswith("isa_")]
        for isa in ISAS:
            linked = Path(scratch) / file_of(isa.name)
            _link(compiler, [*neutral, common[isa.unit], _dispatcher(compiler, Path(scratch), isa)], linked)
            os.replace(linked, folder / linked.name)
    return [folder / file_of(isa.name) for isa in ISAS]


def file_of(isa: str) -> str:
    """The name of an instruction set's library."""
    return f"edgekit-{isa.removeprefix('wasm_')}.wasm"


def _compiled(compiler: Sequence[str], folder: Path) -> dict[str, Path]:
    """Objects by the stem of their source: all but the dispatcher, which each library has its own of."""
    special = {isa.unit: (*_KERNELS, *isa.flags) for isa in ISAS}
    special[_DIGESTED] = (f'-DEDGEKIT_SOURCES="{digest()}"',)
    sources = [path for path in build.sources() if path.suffix == ".cpp" and path.parent.name != "ort"]
    sources = [path for path in sources if path.stem not in (*_LEFT_OUT, "dispatch")]
    sources = [path for path in sources if not path.stem.startswith("isa_") or path.stem in special]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        objects = pool.map(lambda path: _compile(compiler, path, folder, special.get(path.stem, ())), sources)
        return {source.stem: path for source, path in zip(sources, objects, strict=True)}


def _dispatcher(compiler: Sequence[str], folder: Path, isa: build.Isa) -> Path:
    """The object that knows the one instruction set of a library."""
    return _compile(compiler, build.NATIVE / "src" / "dispatch.cpp", folder, (f"-DEDGEKIT_UNITS=UNIT({isa.name})",))


def _compile(compiler: Sequence[str], source: Path, folder: Path, flags: Sequence[str]) -> Path:
    out = folder / f"{source.stem}.o"
    _run([*compiler, *_FLAGS, *flags, *build.INCLUDES, "-c", str(source), "-o", str(out)])
    return out


def _link(compiler: Sequence[str], objects: Sequence[Path], target: Path) -> None:
    exports = [f"-Wl,--export={name}" for name in (*functions(), *_ALLOCATION)]
    _run([*compiler, *_LINK, *exports, *map(str, objects), "-o", str(target)])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def main(words: Sequence[str] | None = None) -> int:
    """Build what is not there or stale; 0 when it worked, else the compiler's words and 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, help=f"a folder that gets copies; the libraries are built in {FOLDER}")
    to: Path | None = parser.parse_args(words).to
    try:
        paths = _fresh() or build_wasm()
    except OSError as error:
        print(f"{error}\n{COMMAND}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    for path in copied(paths, to) if to else paths:
        print(f"{path}  {path.stat().st_size / 1000:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
