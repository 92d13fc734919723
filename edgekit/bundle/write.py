"""The writer: a build folder in, a complete bundle out, or nothing at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifact import Manifest, atomic_path, sha256_of, size_mb_of
from edgekit.bundle.card import model_card
from edgekit.bundle.hub import model_config, preprocessor_config
from edgekit.bundle.platforms import TEMPLATES, Platform
from edgekit.bundle.sbom import sbom
from edgekit.bundle.select import Chosen, Size, select, sizes_of, suffix_of
from edgekit.errors import DataError
from edgekit.golden import FOLDER as GOLDEN

SUMS = "SHA256SUMS"
_LICENCES = Path(__file__).parent / "licences"
_UNSHIPPED = shutil.ignore_patterns("node_modules", "dist", "bundle", "build", "__pycache__", ".gradle", ".build")


@dataclass(frozen=True)
class Bundle:
    """What was written."""

    path: Path
    platforms: tuple[Platform, ...]
    manifest: Manifest
    files: int
    size_mb: float


def write_bundle(
    build: Path, to: Path, *, platforms: Sequence[Platform] | None = None, sizes: Sequence[Size] | None = None
) -> Bundle:
    """Write the bundle `to` atomically; an earlier bundle there is replaced.

    Args:
        build: a build folder.
        to: the folder to make.
        platforms: None takes all that the build has files for.
        sizes: (height, width) in pixels; None takes the build's main size. The first gets the plain names.

    Raises:
        RecipeError: the build lacks what a platform needs, or an image size.
        DataError: no build folder, a damaged one, or `to` holds something else.
        BackendMissing: a package for the model card is not installed.
    """
    build, to = Path(build), Path(to)
    _must_be_ours(to)
    built = Manifest.read(build)
    served, chosen = select(build, built, platforms, sizes)
    with atomic_path(to) as folder:
        folder.mkdir()
        rows = tuple(_copied(each, folder) for each in chosen)
        manifest = built.model_copy(update={"artifacts": rows})
        for size in dict.fromkeys(row.preprocess.input_size for row in rows if row.preprocess):
            _copy_golden(build, folder, size, sizes_of(built)[0], sizes_of(manifest)[0])
        _describe(build, folder, manifest, served)
        for platform in (each for each in served if (TEMPLATES / each).is_dir()):
            shutil.copytree(TEMPLATES / platform, folder / platform, ignore=_UNSHIPPED)
        manifest.write(folder)
        _seal(folder, manifest)
        files = [path for path in folder.rglob("*") if path.is_file()]
        bundle = Bundle(to, served, manifest, len(files), size_mb_of(folder))
    return bundle


def _must_be_ours(to: Path) -> None:
    """Only an earlier bundle or nothing may be replaced."""
    if to.is_dir() and (not any(to.iterdir()) or (to / SUMS).is_file()):
        return
    if to.exists() or to.is_symlink():
        raise DataError(f"{to} exists and is no bundle", why="it would be lost", fix="--to another folder")


def _copied(chosen: Chosen, folder: Path) -> Any:
    for source, target in chosen.copies(folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return chosen.row.model_copy(update={"sha256": sha256_of(folder / str(chosen.row.path))})


def _copy_golden(build: Path, folder: Path, size: Size, built: Size, main: Size) -> None:
    """OUT/golden or OUT/518x518/golden -> golden or 518x518/golden: the place says which size is the main one."""
    source, target = (root / suffix_of(size, first)[1:] / GOLDEN for root, first in ((build, built), (folder, main)))
    if not source.is_dir():
        raise DataError(f"{source} is missing", fix=f"edgekit build again with --out {build}")
    shutil.copytree(source, target, copy_function=shutil.copyfile)


def _describe(build: Path, folder: Path, manifest: Manifest, platforms: Sequence[Platform]) -> None:
    """Everything about the artifacts that is not one of them."""
    transform = manifest.artifacts[0].preprocess
    assert transform is not None
    _write_json(folder / "config.json", model_config(manifest.model, transform))
    _write_json(folder / "preprocessor_config.json", preprocessor_config(transform))
    (folder / "recipe.toml").write_text(_toml(manifest.recipe), encoding="utf-8")
    if (build / "report.html").is_file():
        shutil.copyfile(build / "report.html", folder / "report.html")
    report = build / "report.json"
    card = model_card(manifest, platforms, report if report.is_file() else None)
    (folder / "README.md").write_text(card, encoding="utf-8")
    shutil.copyfile(_LICENCES / "Apache-2.0.txt", folder / "LICENSE")
    (folder / "LICENSE.weights").write_text(_licence_of_weights(manifest.model), encoding="utf-8")


def _licence_of_weights(model: dict[str, Any]) -> str:
    licence, origin = str(model["licence"]), str(model["origin"])
    known = _LICENCES / f"{licence}.txt"
    text = known.read_text(encoding="utf-8") if known.is_file() else "Ask whoever made the checkpoint.\n"
    return f"Weights: {origin}\nLicence: {licence}\n\n" + text.replace("{holder}", f"the authors of {origin}")


def _seal(folder: Path, manifest: Manifest) -> None:
    """Write the bill of materials and, last, the digests of all files."""
    _write_json(folder / "sbom.cdx.json", sbom(manifest, _digests(folder)))
    lines = [f"{digest}  {path}\n" for path, digest in sorted(_digests(folder).items())]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by POSIX path."""
    from hashlib import file_digest

    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                found[path.relative_to(folder).as_posix()] = file_digest(stream, "sha256").hexdigest()
    return found


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _toml(values: dict[str, Any], section: str = "") -> str:
    """A recipe as TOML: values first, then its tables; None is left out, as it is the default wherever it may stand."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()
             if key not in tables and value is not None]  # fmt: skip
    for key, table in tables.items():
        lines.append(f"\n[{section}{key}]\n" + _toml(table, f"{section}{key}."))
    return "".join(lines)
