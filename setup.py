"""Packaging beyond pyproject.toml: recipes and native libraries go in beside the modules.

The library of the fused ops is the one that a compiler makes here, or the finished one that the environment variable
EDGEKIT_OPS_LIBRARY names: .ci/wheels.py builds those of other platforms. Those of web pages are made
where there is zig.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

_ROOT = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("edgekit_ops_build", _ROOT / "edgekit" / "native" / "build.py")
assert _spec is not None
assert _spec.loader is not None
native = importlib.util.module_from_spec(_spec)  # by its path: importing edgekit would need its dependencies
sys.modules[_spec.name] = native  # where dataclasses look for the names of their annotations
_spec.loader.exec_module(native)

GIVEN = os.environ.get("EDGEKIT_OPS_LIBRARY")
RECIPES = sorted((_ROOT / "recipes").glob("*.toml"))


def built() -> Path | None:
    """The library, built anew where its sources have changed; None, and the reason on stderr, where it cannot be."""
    if GIVEN:
        return Path(GIVEN)
    try:
        if not native.LIBRARY.is_file() or native.digest().encode() not in native.LIBRARY.read_bytes():
            native.build()
    except Exception as error:  # the library is optional: whatever breaks its build must not break the install
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        print(f"edgekit: installed without the fused INT8 ops: {reason}", file=sys.stderr)
        print("edgekit: python -m edgekit.native.build makes them later", file=sys.stderr)
        return None
    return Path(native.LIBRARY)


def built_for_the_web() -> list[Path]:
    """The WebAssembly libraries; none, and the reason on stderr, where zig is missing (pip install ziglang)."""
    command = [sys.executable, "-m", "edgekit.native.wasm"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"edgekit: installed without the library for web pages: {done.stderr.strip()}", file=sys.stderr)
        return []
    return sorted(native.LIBRARY.parent.glob("*.wasm"))


class BuildWithFiles(build_py):
    """build_py, and what lies outside the package's folder or is made by a compiler."""

    def run(self) -> None:
        """Build and copy; an editable install uses recipes and libraries of the checkout."""
        super().run()
        library = built()
        if self.editable_mode:
            return
        for recipe in RECIPES:
            self._copy(recipe, "recipes")
        for path in [*([library] if library else []), *built_for_the_web()]:
            self._copy(path, "native/_lib")

    def _copy(self, file: Path, folder: str) -> None:
        target = Path(self.build_lib) / "edgekit" / folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)


class SourceWithRecipes(sdist):
    """The sources, and the recipes that a wheel made of them holds."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Add the files that no package has: setuptools lists what packages hold, and nothing else."""
        super().make_release_tree(base_dir, [*files, *(str(recipe.relative_to(_ROOT)) for recipe in RECIPES)])


class PlatformWheel(bdist_wheel):
    """A wheel with machine code in it, for any Python 3 of its platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-<platform> where the library could be built, else py3-none-any."""
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


class DistributionWithOps(Distribution):
    """Not pure once a library goes into it."""

    def has_ext_modules(self) -> bool:
        """Whether there is a library, or a compiler to make one."""
        return bool(GIVEN) or native.compiler() is not None


setup(
    distclass=DistributionWithOps,
    cmdclass={"build_py": BuildWithFiles, "sdist": SourceWithRecipes, "bdist_wheel": PlatformWheel},
)
