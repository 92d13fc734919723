"""Wheels of every platform and the source distribution, from one Linux machine: `make wheels`.

Zig, which pip installs, is the C++ compiler: it has the headers and link stubs of each system. Every library is checked
for what it exports, needs and demands of the system; the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType

import lief

ROOT = Path(__file__).parents[1]
EPOCH = "1700000000"  # of every file in the archives, unless SOURCE_DATE_EPOCH says otherwise: no clock is read
MOST_MB = 3.0  # of a wheel
LINUX_NEEDS = re.compile(r"lib(c|m|pthread|dl|rt)\.so(\.6|\.0|\.1|\.2)?|ld-linux-(x86-64|aarch64)\.so\.[12]")
MAC_NEEDS = re.compile(r"/usr/lib/libSystem\.B\.dylib|@rpath/libedgekit_ops\.dylib")
WINDOWS_NEEDS = re.compile(r"(api-ms-win-crt-[a-z0-9-]+|kernel32|ntdll|ucrtbase)\.dll", re.IGNORECASE)


@dataclass(frozen=True)
class Platform:
    """A row of the table: the wheel's tag, Zig's name of the system, the machine and the library's file name."""

    tag: str
    target: str
    machine: str
    library: str = "libedgekit_ops.so"


PLATFORMS = (
    Platform("manylinux_2_28_x86_64", "x86_64-linux-gnu.2.28", "x86_64"),
    Platform("manylinux_2_28_aarch64", "aarch64-linux-gnu.2.28", "aarch64"),
    Platform("musllinux_1_2_x86_64", "x86_64-linux-musl", "x86_64"),
    Platform("musllinux_1_2_aarch64", "aarch64-linux-musl", "aarch64"),
    Platform("macosx_11_0_arm64", "aarch64-macos.11.0", "aarch64", "libedgekit_ops.dylib"),
    Platform("macosx_10_13_x86_64", "x86_64-macos.10.13", "x86_64", "libedgekit_ops.dylib"),
    Platform("win_amd64", "x86_64-windows-gnu", "x86_64", "libedgekit_ops.dll"),
)


class WheelError(Exception):
    """A wheel or library that must not be published, and why."""


def loaded(path: Path, name: str) -> ModuleType:
    """A module by its file: importing edgekit would need its dependencies."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the names of their annotations
    spec.loader.exec_module(module)
    return module


native = loaded(ROOT / "edgekit" / "native" / "build.py", "edgekit_ops_build")


def library_of(platform: Platform, folder: Path) -> Path:
    """Compile and link the op library of a platform.

    Zig reads `-march` of Arm as the name of a CPU: there features are named one by one.
    """
    units = {
        unit: tuple(re.sub(r"^-march=armv8\.2-a", "-mcpu=generic+v8_2a", flag) for flag in flags)
        for unit, flags in native.unit_flags(platform.machine).items()
    }
    target = folder / platform.tag / platform.library
    target.parent.mkdir(parents=True)
    cxx = f"{sys.executable} -m ziglang c++ -target {platform.target}"
    extra = ("-g0", f"-ffile-prefix-map={ROOT}=.")
    link = ("-O3", *_link_flags(platform, target.parent))  # Zig compiles its C++ library at this step
    return Path(native.build(target, extra=extra, link=link, machine=platform.machine, cxx=cxx, of_units=units))


def _link_flags(platform: Platform, folder: Path) -> tuple[str, ...]:
    """Flags that strip the library and export the interface alone, without the `operator new` of Zig's C++ library."""
    if "linux" in platform.target:
        script = folder / "exports.map"
        script.write_text(f"{{ global: {'; '.join(sorted(exported()))}; local: *; }};\n", encoding="utf-8")
        return "-Wl,-s", f"-Wl,--version-script={script}"
    if "macos" in platform.target:
        return (f"-Wl,-install_name,@rpath/{platform.library}",)
    return ("-Wl,-s",)


def exported() -> frozenset[str]:
    """Functions of the C interfaces, and ONNX Runtime's entry."""
    headers = "".join(path.read_text(encoding="utf-8") for path in sorted((native.NATIVE / "include").glob("*.h")))
    return frozenset({"RegisterCustomOps", *re.findall(r"^EDGEKIT_API [^(]*?(edgekit_\w+)\(", headers, re.MULTILINE)})


def check_library(path: Path, platform: Platform) -> str:
    """Exports, needed libraries and least system of a library, in words.

    Raises:
        WheelError: it exports other names than the interface, needs what its platform does not promise, or is for
            another machine.
    """
    binary = lief.parse(str(path))
    match binary:
        case lief.ELF.Binary():
            found = _elf(binary, platform)
        case lief.MachO.Binary():
            found = _macho(binary, platform)
        case lief.PE.Binary():
            found = _pe(binary)
        case _:
            raise WheelError(f"{path} is no library")
    names, needs, machine, system, allowed = found
    if names != exported():
        raise WheelError(f"{platform.tag} exports {sorted(names ^ exported())} too many or too few")
    if odd := [name for name in needs if not allowed.fullmatch(name)]:
        raise WheelError(f"{platform.tag} needs {', '.join(odd)}")
    if machine != platform.machine:
        raise WheelError(f"{platform.tag} holds code for {machine}")
    if native.digest().encode() not in path.read_bytes():
        raise WheelError(f"{platform.tag} holds a library of other sources")
    return f"{len(names)} exports, {system}, needs {', '.join(sorted(needs)) or 'nothing'}"


Found = tuple[frozenset[str], tuple[str, ...], str, str, re.Pattern[str]]
"""Exports, needed libraries, machine, least system in words, and the libraries that may be needed."""


def _elf(binary: lief.ELF.Binary, platform: Platform) -> Found:
    machine = {lief.ELF.ARCH.X86_64: "x86_64", lief.ELF.ARCH.AARCH64: "aarch64"}[binary.header.machine_type]
    names = frozenset(str(symbol.name) for symbol in binary.exported_symbols)
    versions = [str(aux.name) for need in binary.symbols_version_requirement for aux in need.get_auxiliary_symbols()]
    glibc = max((_numbers(v.removeprefix("GLIBC_")) for v in versions if v.startswith("GLIBC_")), default=())
    if odd := [version for version in versions if not version.startswith("GLIBC_")]:
        raise WheelError(f"{platform.tag} wants the symbol versions {', '.join(odd)}")
    limit = re.match(r"manylinux_(\d+)_(\d+)_", platform.tag)
    if glibc > (tuple(map(int, limit.groups())) if limit else ()):
        raise WheelError(f"{platform.tag} wants glibc {'.'.join(map(str, glibc))}")
    system = f"glibc {'.'.join(map(str, glibc))}" if glibc else "musl"
    return names, tuple(str(name) for name in binary.libraries), machine, system, LINUX_NEEDS


def _macho(binary: lief.MachO.Binary, platform: Platform) -> Found:
    types = {lief.MachO.Header.CPU_TYPE.X86_64: "x86_64", lief.MachO.Header.CPU_TYPE.ARM64: "aarch64"}
    names = frozenset(str(symbol.name).removeprefix("_") for symbol in binary.exported_symbols)
    least = tuple(binary.build_version.minos if binary.has_build_version else binary.version_min.version)[:2]
    promised = re.match(r"macosx_(\d+)_(\d+)_", platform.tag)
    if promised is None or least > tuple(map(int, promised.groups())):
        raise WheelError(f"{platform.tag} wants macOS {'.'.join(map(str, least))}")
    needs = tuple(str(library.name) for library in binary.libraries)
    return names, needs, types[binary.header.cpu_type], f"macOS {'.'.join(map(str, least))}", MAC_NEEDS


def _pe(binary: lief.PE.Binary) -> Found:
    machine = {lief.PE.Header.MACHINE_TYPES.AMD64: "x86_64"}[binary.header.machine]
    names = frozenset(str(entry.name) for entry in binary.get_export().entries)
    return names, tuple(str(library.name) for library in binary.imports), machine, "Windows", WINDOWS_NEEDS


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def source_archive(folder: Path) -> Path:
    """The source distribution, packed anew: setuptools leaves times and owners in it."""
    _setuptools(ROOT, "sdist", "--dist-dir", str(folder / "raw"))
    (made,) = (folder / "raw").glob("*.tar.gz")
    target = folder / made.name
    with tarfile.open(made) as before, target.open("wb") as raw:
        stream = gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=int(epoch()))
        with stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as after:
            for member in sorted(before.getmembers(), key=lambda each: each.name):
                content = before.extractfile(member)
                plain = tarfile.TarInfo(member.name)
                plain.type, plain.size, plain.mtime = member.type, member.size, int(epoch())
                plain.mode = 0o755 if member.isdir() else 0o644
                after.addfile(plain, io.BytesIO(content.read()) if content else None)
    return target


def wheel_of(platform: Platform, sources: Path, library: Path, folder: Path) -> Path:
    """The wheel of a platform around its library."""
    options = ("--plat-name", platform.tag, "--dist-dir", str(folder / platform.tag), "--bdist-dir", str(folder / "b"))
    _setuptools(sources, "bdist_wheel", *options, EDGEKIT_OPS_LIBRARY=str(library))
    (made,) = (folder / platform.tag).glob("*.whl")
    return made


def _setuptools(folder: Path, *command: str, **environment: str) -> None:
    """One command of setuptools in a checkout, its files and its answer the same whoever asks."""
    fixed = {"SOURCE_DATE_EPOCH": epoch(), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    program = (
        "import os; os.umask(0o022); import setuptools; exec(compile(open('setup.py').read(), 'setup.py', 'exec'))"
    )
    call = [sys.executable, "-W", "ignore", "-c", f"__file__ = 'setup.py'; {program}", "--quiet", *command]
    done = subprocess.run(call, cwd=folder, env={**os.environ, **fixed}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WheelError(f"setuptools {command[0]}: {(done.stderr or done.stdout).strip()[-2000:]}")


def epoch() -> str:
    """Seconds since 1970 that stand in every archive."""
    return os.environ.get("SOURCE_DATE_EPOCH", EPOCH)


def check_wheel(path: Path, platform: Platform) -> float:
    """The size of a wheel in MB.

    Raises:
        WheelError: something is missing, does not belong there, or makes it too large.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        texts = {name: archive.read(name).decode() for name in names if name.endswith(("/WHEEL", "/METADATA"))}
    has = {"/".join(PurePosixPath(name).parts) for name in names}
    recipes = {f"edgekit/recipes/{file.name}" for file in (ROOT / "recipes").glob("*.toml")}
    libraries = {name for name in has if "/native/_lib/" in name}
    wanted = {"edgekit/py.typed", "edgekit/native/src/dispatch.cpp", "edgekit/report/page.html", *recipes}
    if missing := wanted - has:
        raise WheelError(f"{path.name} lacks {', '.join(sorted(missing))}")
    if libraries != {f"edgekit/native/_lib/{platform.library}"}:
        raise WheelError(f"{path.name} holds the libraries {sorted(libraries)}")
    info = next(name.partition("/")[0] for name in names if name.endswith(".dist-info/WHEEL"))
    strangers = [name for name in has if not name.startswith(("edgekit/", f"{info}/"))]
    strangers += [name for name in has if re.search(r"__pycache__|node_modules|(^|/)tests?/|\.pdb$|\.lib$", name)]
    if odd := [name for name in strangers if "/bundle/templates/" not in name]:
        raise WheelError(f"{path.name} holds {', '.join(sorted(odd))}")
    if f"Tag: py3-none-{platform.tag}\n" not in texts[f"{info}/WHEEL"]:
        raise WheelError(f"{path.name} does not carry its tag")
    if f"{info}/licenses/LICENSE" not in has:
        raise WheelError(f"{path.name} lacks the licence")
    if f"\nVersion: {version()}\n" not in texts[f"{info}/METADATA"]:
        raise WheelError(f"{path.name} is not of version {version()}")
    size = path.stat().st_size / 1e6
    if size > MOST_MB:
        raise WheelError(f"{path.name} has {size:.1f} MB, more than {MOST_MB}")
    return size


def version() -> str:
    """The version, from its one place."""
    found = re.search(r'^__version__ = "([^"]+)"', (ROOT / "edgekit" / "__init__.py").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def built(platforms: Iterable[Platform], out: Path) -> Iterator[tuple[Path, str]]:
    """Each archive that goes to `out`, with what was found out about it."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgekit-wheels-") as name:
        folder = Path(name)
        archive = source_archive(folder)
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        sources = folder / archive.name.removesuffix(".tar.gz")  # of which the wheels are made: it is complete
        archive_mb = archive.stat().st_size / 1e6
        yield Path(shutil.move(archive, out / archive.name)), f"{archive_mb:.2f} MB"
        for platform in platforms:
            library = library_of(platform, folder / "libraries")
            words = check_library(library, platform)
            wheel = wheel_of(platform, sources, library, folder / "wheels")
            size = check_wheel(wheel, platform)
            yield Path(shutil.move(wheel, out / wheel.name)), f"{size:.2f} MB, {words}"


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Build and check; 0 when every archive may be published."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the archives")
    parser.add_argument("--only", default="", help="platforms whose tag holds this")
    parser.add_argument("--twice", action="store_true", help="build again and compare every byte")
    given = parser.parse_args()
    chosen = [platform for platform in PLATFORMS if given.only in platform.tag]
    try:
        made = [path for path, words in _told(built(chosen, given.out))]
        if given.twice:
            with tempfile.TemporaryDirectory(prefix="edgekit-again-") as folder:
                again = {path.name: digest(path) for path, _ in built(chosen, Path(folder))}
            if odd := [path.name for path in made if again[path.name] != digest(path)]:
                raise WheelError(f"built twice, these differ: {', '.join(odd)}")
            print(f"{len(made)} archives, built twice: the same bytes")
    except WheelError as error:
        print(f"error {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error {error.stderr[-4000:]}", file=sys.stderr)
        return 1
    return 0


def _told(each: Iterator[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    for path, words in each:
        print(f"{path.name}  {digest(path)[:16]}  {words}", flush=True)
        yield path, words


if __name__ == "__main__":
    sys.exit(main())
