"""Selection of the artifacts of a bundle, and their names in it: intact ones, of its sizes and platforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.backends import get_backend
from edgekit.bundle.platforms import JS_NAMES, PLATFORMS, Platform
from edgekit.errors import DataError, RecipeError
from edgekit.files import files_of, inside
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.measure.gate import Limits, check_build
from edgekit.precision import INT8

Size = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class Chosen:
    """One artifact: `row` as the bundle's manifest has it, `source` in the build folder."""

    row: ArtifactRow
    source: Path

    def copies(self, bundle: Path) -> list[tuple[Path, Path]]:
        """Pairs (file of the build, file of the bundle) of everything that the artifact consists of."""
        assert self.row.path is not None
        target = inside(bundle, self.row.path, said_by=str(self.source))
        if self.source.is_dir():
            return [(file, target / file.relative_to(self.source)) for file in files_of(self.source)]
        return [
            (file, target.with_name(target.stem + file.name.removeprefix(self.source.stem)))
            for file in files_of(self.source)
        ]


def sizes_of(manifest: Manifest) -> tuple[Size, ...]:
    """Image sizes of a build, the main one first."""
    sizes = [(int(height), int(width)) for height, width in manifest.recipe.get("image_size", ())]
    made = [row.preprocess.input_size for row in manifest.artifacts if row.preprocess is not None]
    return tuple(dict.fromkeys([*sizes, *made]))


def suffix_of(size: Size, main: Size) -> str:
    """The suffix of names of a further size."""
    return "" if size == main else f"_{size[0]}x{size[1]}"


def select(
    build: Path, manifest: Manifest, platforms: Sequence[Platform] | None, sizes: Sequence[Size] | None
) -> tuple[tuple[Platform, ...], tuple[Chosen, ...]]:
    """The platforms that are served (None: all that can be) and their artifacts; `sizes[0]` gets the plain names.

    Raises:
        RecipeError: a size or an artifact that a platform needs was not built.
        DataError: an artifact is damaged or missing.
    """
    built = sizes_of(manifest)
    wanted = tuple(dict.fromkeys(sizes)) if sizes else built[:1]
    for size in wanted:
        if size not in built:
            have = ", ".join(f"{height}x{width}" for height, width in built)
            raise RecipeError(
                f"{build} was not built for {size[0]}x{size[1]} pixels",
                why=f"it has {have}",
                fix=f"edgekit build --image-size {size[0]}x{size[1]} --out {build}",
            )
    rows = [row for row in manifest.artifacts if _is_for_apps(row)]
    rows = [row for row in rows if row.precision not in get_backend(row.format).untimed_precisions]  # for other devices
    rows = [row for row in rows if row.preprocess is not None and row.preprocess.input_size in wanted]
    ending = suffix_of(wanted[0], built[0])
    names = {row.name.removesuffix(ending) for row in rows if row.name.endswith(ending)}
    served = tuple(p for p in PLATFORMS if names.intersection(PLATFORMS[p].needs))
    _require(build, manifest, tuple(platforms) if platforms is not None else served)
    chosen = tuple(platforms) if platforms is not None else served
    for platform in chosen:
        if platform not in served:
            _refuse(build, manifest, platform)
    formats = list(dict.fromkeys(format_ for platform in chosen for format_ in PLATFORMS[platform].formats))
    places = {
        row.name: (wanted.index(row.preprocess.input_size), formats.index(row.format))
        for row in rows
        if row.preprocess is not None and row.format in formats
    }
    rows = sorted((row for row in rows if row.name in places), key=lambda row: places[row.name])
    _intact(build, {row.name for row in rows})
    return chosen, tuple(_renamed(build, row, built[0], wanted[0]) for row in rows)


def _is_for_apps(row: ArtifactRow) -> bool:
    """Whether a file was made, by edgekit, and the row is the one of its plan's arithmetic."""
    return row.status == "ok" and "nncf" not in row.tools and row.arithmetic == "plan"


def _require(build: Path, manifest: Manifest, platforms: tuple[Platform, ...]) -> None:
    if not platforms:
        failed = [
            f"{row.name}: {row.reason or row.status}"
            for row in manifest.artifacts
            if row.status != "ok" and row.precision == INT8
        ]
        raise RecipeError(
            f"{build} holds no w8a8 artifact that an app could run",
            why="; ".join(failed),
            fix=f"edgekit build --precision fp32,w8a8 --out {build}",
        )


def _refuse(build: Path, manifest: Manifest, platform: Platform) -> None:
    """Say why a platform that was asked for cannot be served."""
    needs = PLATFORMS[platform].needs
    found = [f"{row.name} is {row.status}: {row.reason}" for row in manifest.artifacts if row.name in needs]
    formats = ",".join(name.partition("/")[0] for name in needs)
    raise RecipeError(
        f"{build} holds nothing for {platform}",
        why="; ".join(found) or "it needs " + " or ".join(needs),
        fix=f"edgekit build --format {formats} --precision fp32,w8a8 --out {build}",
    )


def _intact(build: Path, names: set[str]) -> None:
    checks = [check for check in check_build(build, Limits()) if check.artifact in names]
    if damaged := [f"{check.artifact}: {check.reason}" for check in checks if check.outcome == "failed"]:
        raise DataError(
            f"{build} is damaged",
            why="; ".join(damaged),
            fix=f"edgekit build --out {build}   makes anew what is damaged",
        )


def _renamed(build: Path, row: ArtifactRow, built: Size, main: Size) -> Chosen:
    """The row under its name in the bundle: plain for the main size, transformers.js's name for `q8`."""
    assert row.path is not None
    assert row.preprocess is not None
    before, after = (suffix_of(row.preprocess.input_size, size) for size in (built, main))
    path = PurePosixPath(row.path)
    name = row.name.removesuffix(before)
    stem = JS_NAMES.get(name, path.stem.removesuffix(before)) + after
    source = inside(build, row.path, said_by=str(build / "manifest.json"))
    if stem != path.stem and len(files_of(source)) > 1 and path.suffix == ".onnx":
        raise DataError(
            f"{source} cannot get another name: its weights are in a second file",
            fix="build this size alone, so that it has the plain names",
        )
    target = path.with_name(stem + path.suffix)
    return Chosen(row.model_copy(update={"name": name + after, "path": target.as_posix()}), source)
