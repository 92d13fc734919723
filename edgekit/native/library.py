"""Finds the native library of the fused ops, builds it where it is missing or stale, and says what it can do."""

from __future__ import annotations

import ctypes
import os
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgekit.errors import BackendMissing
from edgekit.native import build

_COMMAND = "python -m edgekit.native.build"


@dataclass(frozen=True)
class NativeStatus:
    """The state of the native library on this machine."""

    compiler: str | None
    library: Path | None  # None: not built
    stale: bool  # built from other sources than those beside it
    isa: str | None  # in use; the environment variable EDGEKIT_ISA lowers it
    isas: tuple[str, ...]  # all that this CPU runs, best first


def ort_library() -> Path:
    """Path for `SessionOptions.register_custom_ops_library`; a checkout builds it first where it must.

    Raises:
        BackendMissing: there is no library for this machine and no compiler that makes one, or the environment variable
            EDGEKIT_ISA names what the CPU lacks.
    """
    if not build.LIBRARY.is_file() or _stale():
        _build()
    library = _loaded(build.LIBRARY)  # a library of another platform fails here, with a reason
    wanted = os.environ.get("EDGEKIT_ISA")
    if wanted and wanted not in (_text(library, "edgekit_isa"), *(available := _text(library, "edgekit_isas").split())):
        raise BackendMissing(
            f"EDGEKIT_ISA={wanted} is not what this CPU and library have", fix=f"one of {', '.join(available)}"
        )
    return build.LIBRARY


def loaded_library() -> ctypes.CDLL:
    """The library, loaded.

    Raises:
        BackendMissing: as for `ort_library`.
    """
    return _loaded(ort_library())


def isa() -> str:
    """The instruction set that the kernels use: a name of `native/isas.json`, "avx2" for example.

    Raises:
        BackendMissing: as for `ort_library`.
    """
    return _text(loaded_library(), "edgekit_isa")


def native_status() -> NativeStatus:
    """Look, without building anything."""
    if not build.LIBRARY.is_file():
        return NativeStatus(build.compiler(), None, False, None, ())
    library = _loaded(build.LIBRARY)
    isas = tuple(_text(library, "edgekit_isas").split())
    return NativeStatus(build.compiler(), build.LIBRARY, _stale(), _text(library, "edgekit_isa"), isas)


def _stale() -> bool:
    """Read from the file's bytes: a library that is loaded stays loaded, so asking it would keep an old one."""
    return build.NATIVE.is_dir() and build.digest().encode() not in build.LIBRARY.read_bytes()


def _build() -> None:
    try:
        build.build()
    except FileNotFoundError as error:
        why, fix = str(error), "install a C++ compiler (Debian: apt install g++), then " + _COMMAND
    except OSError as error:
        why, fix = str(error), f"make {build.LIBRARY.parent} writable, then {_COMMAND}"
    except subprocess.CalledProcessError as error:
        why, fix = error.stderr.strip().splitlines()[0], f"{_COMMAND} shows all of it; the compiler must know C++20"
    else:
        return
    raise BackendMissing("the native library of the fused ops is not built", why=why, fix=fix)


@cache
def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendMissing(f"{path.name} does not load on this machine", why=str(error), fix=_COMMAND) from None


def _text(library: ctypes.CDLL, function: str) -> str:
    entry = library[function]
    entry.restype = ctypes.c_char_p
    value: bytes = entry()
    return value.decode()
