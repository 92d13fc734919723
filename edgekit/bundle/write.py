"""The writer: a build folder in, a complete bundle out, or nothing at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.backends import Runner, get_backend
from edgekit.backends.loading import artifact_of
from edgekit.bundle.card import model_card, verdict_among
from edgekit.bundle.hub import model_config, preprocessor_config
from edgekit.bundle.pictures import write_pictures
from edgekit.bundle.places import places_in, without
from edgekit.bundle.platforms import OWN, TEMPLATES, WASM, Platform
from edgekit.bundle.private import page_without_photographs, require_private, shows_demo, write_golden_pictures
from edgekit.bundle.sbom import sbom
from edgekit.bundle.select import Chosen, Size, select, sizes_of, suffix_of
from edgekit.bundle.sign import SUMS, require_key, sha256_of_file, sign_bundle
from edgekit.errors import BackendMissing, DataError, RecipeError
from edgekit.files import atomic_path, inside, read_text, sha256_of, size_mb_of
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.measure.golden import FOLDER as GOLDEN
from edgekit.measure.golden import INPUTS, OUTPUTS, SIZES, check_golden
from edgekit.native.build import NATIVE
from edgekit.native.wasm import copied, wasm_libraries
from edgekit.precision import REFERENCE
from edgekit.report.content import BuildReport
from edgekit.report.verdict import Verdict

_LICENCES = Path(__file__).parent / "licences"
_UNSHIPPED = shutil.ignore_patterns("node_modules", "dist", "bundle", "build", "__pycache__", ".gradle", ".build")


@dataclass(frozen=True)
class Bundle:
    """The written bundle."""

    path: Path
    platforms: tuple[Platform, ...]
    manifest: Manifest
    files: int
    size_mb: float


def write_bundle(
    build: Path,
    to: Path,
    *,
    platforms: Sequence[Platform] | None = None,
    sizes: Sequence[Size] | None = None,
    key: Path | None = None,
) -> Bundle:
    """Write the bundle `to` atomically; an earlier bundle there is replaced.

    Args:
        build: a build folder.
        to: the folder to make.
        platforms: None takes all that the build has files for.
        sizes: (height, width) in pixels; None takes the build's main size. The first gets the plain names.
        key: a private elliptic-curve key (PEM) to sign the bundle with; None leaves it unsigned.

    Raises:
        RecipeError: the build lacks what a platform needs, or an image size.
        DataError: no build folder, a damaged one, or `to` holds something else.
        BackendMissing: a package for the model card, or for the signature, is not installed.
    """
    build, to = Path(build), Path(to)
    _must_be_ours(to)
    if key is not None:
        require_key(key)
    built = Manifest.read(build)
    _require_described(built, build)
    served, chosen = select(build, built, platforms, sizes)
    with atomic_path(to) as folder:
        folder.mkdir()
        rows = tuple(_copied(each, folder) for each in chosen)
        report = _report(build)
        rows_of = _measured_places(built, build, chosen, report)
        names = {name: row.name for name, row in rows_of.items()}
        manifest = _with_choice(built.model_copy(update={"artifacts": rows}), report, names)
        places = places_in(built, build)
        manifest = Manifest.model_validate(without(manifest.model_dump(), places))
        main = sizes[0] if sizes else sizes_of(built)[0]
        for size in dict.fromkeys(row.preprocess.input_size for row in rows if row.preprocess):
            home = folder / suffix_of(size, main)[1:]
            reference = _golden(build / suffix_of(size, sizes_of(built)[0])[1:], home, built, size)
            if not shows_demo(built):
                write_golden_pictures(home / GOLDEN, reference)
        paths = {name: f"`{row.path}`" for name, row in rows_of.items()}
        verdict = verdict_among(report, paths, built.choice) if report else None
        _describe(build, folder, manifest, served, report, verdict, places)
        for platform in served:
            shutil.copytree(TEMPLATES / platform, folder / platform, ignore=_UNSHIPPED)
        if "web" in served and any(row.format == OWN for row in rows):
            copied(wasm_libraries(), folder / WASM)
        if "cpp" in served:  # one copy of the kernels in the source tree, one in each bundle that compiles them
            shutil.copytree(NATIVE, folder / "cpp" / "edgekit_ops", ignore=_UNSHIPPED)
        manifest.write(folder)
        require_private(folder, places)
        _seal(folder, manifest)
        if key is not None:
            sign_bundle(folder, key)
        files = [path for path in folder.rglob("*") if path.is_file()]
        bundle = Bundle(to, served, manifest, len(files), size_mb_of(folder))
    return bundle


def _report(build: Path) -> BuildReport | None:
    """The report of the build, None where there is none.

    Raises:
        DataError: its report.json is damaged.
    """
    return BuildReport.read_json(build / "report.json") if (build / "report.json").is_file() else None


def _measured_places(
    built: Manifest, build: Path, chosen: Sequence[Chosen], report: BuildReport | None
) -> dict[str, ArtifactRow]:
    """Rows of the bundle, by name in the build, of every file that the report measured, byte for byte."""
    measured = {row.name: row.sha256 for row in report.manifest.artifacts} if report else {}
    rows = {build / row.path: row for row in built.artifacts if row.path and row.arithmetic == "plan"}
    found = [(rows[each.source], each.row) for each in chosen]
    return {row.name: placed for row, placed in found if measured.get(row.name) == row.sha256}


def _with_choice(manifest: Manifest, report: BuildReport | None, names: Mapping[str, str]) -> Manifest:
    """With the choice among the artifacts of the bundle, by their `names` in it, and the runs they were timed in."""
    runs = tuple(run for run in manifest.runs if any(manifest.run_of(row) == run for row in manifest.artifacts))
    choice = verdict_among(report, names, manifest.choice).recorded() if report else None
    return manifest.model_copy(update={"choice": choice, "runs": runs})


def _require_described(built: Manifest, build: Path) -> None:
    """Raises DataError unless the manifest says of the model what a card and a licence file need."""
    config = built.model.get("config")
    lacking = [key for key in ("name", "licence", "origin", "sha256") if key not in built.model]
    lacking += [] if isinstance(config, dict) and isinstance(config.get("arch"), str) else ["config.arch"]
    if lacking:
        raise DataError(
            f"{build / 'manifest.json'} does not say the model's {', '.join(lacking)}",
            why="a bundle states whose weights it holds",
            fix=f"edgekit build --out {build}",
        )


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


def _golden(source: Path, target: Path, built: Manifest, size: Size) -> Runner:
    """Write golden inputs, outputs and pictures of one size; `source` and `target` hold `golden/`.

    Returns the runner that embedded the pictures.
    """
    if not (source / GOLDEN).is_dir():
        raise DataError(f"{source / GOLDEN} is missing", fix=f"edgekit build --out {source}")
    (target / GOLDEN).mkdir(parents=True)
    for name in (INPUTS, OUTPUTS):  # and nothing else that lies there: a bundle is made for upload
        shutil.copyfile(inside(source, f"{GOLDEN}/{name}", said_by="the golden check"), target / GOLDEN / name)
    if any(row.preprocess and row.preprocess.sides for row in built.artifacts):
        shutil.copyfile(inside(source, f"{GOLDEN}/{SIZES}", said_by="the golden check"), target / GOLDEN / SIZES)
    reference = _reference(source, built, size)
    write_pictures(target / GOLDEN, reference)
    return reference


def _reference(source: Path, built: Manifest, size: Size) -> Runner:
    """An FP32 artifact that runs here and passes its golden check: it embeds the golden pictures."""
    rows = [row for row in built.artifacts if row.status == "ok" and row.precision == REFERENCE and row.preprocess]
    rows = [row for row in rows if row.preprocess and row.preprocess.input_size == size]
    home = source if (source / "manifest.json").is_file() else source.parent
    why = []
    for row in rows:
        try:
            runner = get_backend(row.format).runner(artifact_of(row, built, home))
        except BackendMissing as missing:
            why.append(f"{row.name}: {missing}")
            continue
        check_golden(source, runner)
        return runner
    raise RecipeError(
        f"no FP32 artifact of {home} runs here",
        why="; ".join(why) or "none was built",
        fix=f"edgekit build --format onnx --precision fp32,w8a8 --out {home}",
    )


def _describe(
    build: Path,
    folder: Path,
    manifest: Manifest,
    platforms: Sequence[Platform],
    report: BuildReport | None,
    verdict: Verdict | None,
    places: Mapping[str, str],
) -> None:
    """Everything about the artifacts that is not one of them; `verdict` calls them by their paths.

    Of `places`, paths of this machine, names are left: a bundle is made for upload.
    """
    transform = manifest.artifacts[0].preprocess
    assert transform is not None
    _write_json(folder / "config.json", model_config(manifest.model, transform))
    _write_json(folder / "preprocessor_config.json", preprocessor_config(transform))
    (folder / "recipe.toml").write_text(_toml(manifest.recipe), encoding="utf-8")
    page = inside(build, "report.html", said_by="the bundle")
    if page.is_file():
        text = read_text(page) if shows_demo(manifest) else page_without_photographs(page, report)
        (folder / "report.html").write_text(without(text, places), encoding="utf-8")
    card = model_card(manifest, platforms, report, verdict)
    (folder / "README.md").write_text(without(card, places), encoding="utf-8")
    shutil.copyfile(_LICENCES / "Apache-2.0.txt", folder / "LICENSE")
    (folder / "LICENSE.weights").write_text(_licence_of_weights(manifest.model), encoding="utf-8")


def _licence_of_weights(model: dict[str, Any]) -> str:
    licence, origin = str(model.get("licence", "unknown")), str(model.get("origin", "unknown"))
    if model.get("licence_text"):
        return f"Weights: {origin}\nLicence: {licence}\n\n{model['licence_text']}"
    known = {file.stem: file for file in _LICENCES.glob("*.txt")}.get(licence)
    text = known.read_text(encoding="utf-8") if known else "Ask whoever made the checkpoint.\n"
    return f"Weights: {origin}\nLicence: {licence}\n\n" + text.replace("{holder}", f"the authors of {origin}")


def _seal(folder: Path, manifest: Manifest) -> None:
    """Write the bill of materials and, last, the digests of all files."""
    _write_json(folder / "sbom.cdx.json", sbom(manifest, _digests(folder)))
    lines = [f"{digest}  {path}\n" for path, digest in sorted(_digests(folder).items())]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by POSIX path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of_file(path) for path in files}


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _toml(values: dict[str, Any], section: str = "") -> str:
    """A recipe as TOML: values first, then its tables; None is left out, as it is the default wherever it may stand."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
        for key, value in values.items()
        if key not in tables and value is not None
    ]
    for key, table in tables.items():
        lines.append(f"\n[{section}{key}]\n" + _toml(table, f"{section}{key}."))
    return "".join(lines)
