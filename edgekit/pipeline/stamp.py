"""The stamp of a complete build: an equal one tells, without reading a model, that nothing needs doing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgekit import __version__
from edgekit.artifact import FORMATS, Format
from edgekit.errors import DataError
from edgekit.files import atomic_path, files_of, read_text
from edgekit.heads.own import own_kind
from edgekit.images.folder import ImageFolder
from edgekit.manifest import Manifest
from edgekit.measure.golden import golden_files
from edgekit.models.zoo import path_of
from edgekit.pipeline.jobs import Job
from edgekit.pipeline.plans import PLANS
from edgekit.pipeline.records import FOLDER, digest_of
from edgekit.pipeline.reference import golden_home
from edgekit.recipe import Recipe

if TYPE_CHECKING:
    from edgekit.report.verdict import Aim

Measure = Literal["all", "drift", "none"]
"""How much is measured: drift and latency; drift alone; or only the golden check."""

_FILE = "stamp"


@dataclass(frozen=True)
class Request:
    """Request for a build; `jobs` are the recipe's on this machine."""

    recipe: Recipe
    jobs: tuple[Job, ...]
    out: Path
    measure: Measure
    threads: int | None
    aim: Aim | None


def tools_of(format_: Format) -> dict[str, str]:
    """Installed packages that decide what a format's files hold, with their versions."""
    found = {}
    for package in ("torch", *FORMATS[format_].distributions):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def finished(request: Request) -> Manifest | None:
    """The manifest of a complete build of the same request; None when anything may have to be done."""
    try:
        if read_text(request.out / FOLDER / _FILE, 1000) == _stamp(request):
            return Manifest.read(request.out)
    except (OSError, DataError):
        pass
    return None


def mark_finished(request: Request) -> None:
    """Leave the stamp of a build in which no artifact failed."""
    with atomic_path(request.out / FOLDER / _FILE) as temporary:
        temporary.write_text(_stamp(request))


def _stamp(request: Request) -> str:
    """Digest of the request, the tools, and the size and time of every file read or written."""
    recipe, out = request.recipe, request.out
    sources = [Path(s) for s in {recipe.calibration.source, recipe.evaluation} if s != "demo"]
    images = [folder / path for folder in sources for path in ImageFolder.scan(folder).paths]
    model = path_of(recipe.model)
    checkpoint = files_of(model) if model else []
    heads = [Path(source) for source in recipe.heads.values() if own_kind(source) is None]
    jobs = [job for job in request.jobs if not job.blocked]
    written = [file for job in jobs for file in files_of(out / job.path)]
    written += [file for job in jobs for file in golden_files(golden_home(out, job))]
    written += sorted(file for folder in (PLANS, FOLDER) for file in (out / folder).glob("[!.]*.*"))
    return digest_of(
        recipe=recipe.digest,
        measure=request.measure,
        threads=request.threads,
        edgekit=__version__,
        aim=request.aim.model_dump() if request.aim else None,
        tools={format_: tools_of(format_) for format_ in recipe.formats},
        jobs=[(job.name, job.blocked) for job in request.jobs],
        files=_stat_signatures([*sorted(images), *checkpoint, *heads]),
        written=_stat_signatures([*written, out / "manifest.json"], changed=True),
    )


def _stat_signatures(files: Iterable[Path], *, changed: bool = False) -> list[tuple[str, int, int, int]]:
    """Name, bytes and time of modification; raises OSError when one is missing.

    With `changed` also the time of the last change of the file itself, which no program can set: of files that only
    edgekit writes, so that bytes that were altered under their old time are looked at.
    """
    found = []
    for file in files:
        state = os.stat(file)
        found.append((str(file), state.st_size, state.st_mtime_ns, state.st_ctime_ns if changed else 0))
    return found
