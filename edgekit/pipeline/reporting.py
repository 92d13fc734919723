"""Hands a finished build to the report: measurements, pictures of the worst images, and how to reproduce it."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgekit.artifact import Manifest
from edgekit.backends import get_backend
from edgekit.errors import EdgekitError
from edgekit.measure.features import Features, features_of
from edgekit.measure.host import Host
from edgekit.pipeline.context import Materials
from edgekit.pipeline.jobs import Job
from edgekit.pipeline.make import LOGS, REFERENCE, artifact_from, maps_of
from edgekit.pipeline.records import Record
from edgekit.pipeline.timing import reference_name
from edgekit.pipeline.watch import Watcher
from edgekit.quantize.explanation import Explanation
from edgekit.recipe import Recipe
from edgekit.report.content import BuildReport, Command, ImagePanel, SkippedImage
from edgekit.report.verdict import Aim, Verdict

_SHOWN = 6  # images side by side


def report_build(
    jobs: Sequence[Job],
    records: Mapping[str, Record],
    manifest: Manifest,
    materials: Materials,
    *,
    aim: Aim | None,
    changed: bool,
    watcher: Watcher,
) -> tuple[Path | None, Verdict]:
    """Write OUT/report.html and OUT/report.json unless they are there and nothing changed.

    Returns:
        The path of the page (None when it could not be drawn; the data are in report.json all the same), and the
        verdict, for `aim` when there is one.
    """
    out = materials.out
    page, data = out / "report.html", out / "report.json"
    if not changed and data.exists():
        try:
            report = BuildReport.read_json(data)
        except EdgekitError:
            changed = True
        else:
            if report.verdict.aim == (aim or Aim()):
                return page if page.exists() else None, report.verdict
    watcher.stage("report")
    if changed or not data.exists():
        report = _assemble([job for job in jobs if not job.suffix], records, manifest, materials, watcher)
    if aim:
        report = report.aimed(aim)
    report.write_json(out)
    try:
        from edgekit.report import write_report

        return write_report(report, out), report.verdict
    except EdgekitError as error:
        watcher.note(f"report.html was not drawn: {error}")
    except Exception as error:
        (out / LOGS).mkdir(exist_ok=True)
        (out / LOGS / "report.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        watcher.note(f"report.html was not drawn: {type(error).__name__} {error} [{LOGS}/report.log]")
    return None, report.verdict


def _assemble(
    jobs: Sequence[Job], records: Mapping[str, Record], manifest: Manifest, materials: Materials, watcher: Watcher
) -> BuildReport:
    """The report of the main image size; further sizes have their rows in the manifest."""
    from edgekit.report.pictures import thumbnails

    found = [records[job.name] for job in jobs]
    size = jobs[0].size
    images = materials.evaluation(size)
    reference = reference_name([record.row for record in found]) or REFERENCE
    calibration = materials.calibration(size)
    skipped = (*calibration.skipped, *images.skipped)
    report = BuildReport.assemble(
        manifest,
        Host.model_validate(manifest.host),
        reference=reference,
        drift={record.row.name: record.drift for record in found if record.drift},
        latency={record.row.name: record.latency for record in found if record.latency},
        thumbnails=thumbnails(images.pixel_values, images.preprocess, images.paths),
        panels=_panels(jobs, records, materials, reference, watcher),
        head=next(iter(materials.loaded.heads), ""),
        evaluation=f"{len(images)} images of {_source(images.source)}",
        calibration=f"{len(calibration)} images of {_source(calibration.source)}",
        commands=_commands(materials.recipe),
        explanation=Explanation.read(materials.out),
        skipped=tuple(SkippedImage(name=skip.path, reason=skip.reason) for skip in skipped),
    )
    return report.model_copy(update={"images_digest": images.digest})


def _panels(
    jobs: Sequence[Job], records: Mapping[str, Record], materials: Materials, reference: str, watcher: Watcher
) -> tuple[ImagePanel, ...]:
    """The images that the integer artifacts change most, run again through every artifact that runs here."""
    from edgekit.report.pictures import panels

    size = jobs[0].size
    images = materials.evaluation(size)
    show = _worst([records[job.name] for job in jobs], len(images))
    features: dict[str, Features] = {}
    if reference == REFERENCE:
        base = materials.reference(size)
        features[REFERENCE] = Features(base.tokens[show], base.grid, tuple(images.paths[i] for i in show))
    for job in jobs:
        record = records[job.name]
        if record.row.status != "ok" or record.drift is None:
            continue
        watcher.stage(f"report: pictures of {job.name}")
        try:
            runner = get_backend(job.format).runner(artifact_from(record.row, materials))
            features[job.name] = features_of(runner, images.pixel_values[show], names=[images.paths[i] for i in show])
        except EdgekitError as error:
            watcher.note(f"no pictures of {job.name}: {error}")
    head = next(iter(materials.loaded.heads), None)
    maps = {name: maps_of(f, materials.loaded)[head] for name, f in features.items()} if head else {}
    if reference not in features:
        return ()
    return panels(
        images.pixel_values[show], images.preprocess, features, reference=reference, maps=maps, show=range(len(show))
    )


def _worst(records: Sequence[Record], count: int) -> list[int]:
    """Indices of the images with the least SQNR summed over the integer artifacts (over all when there is none)."""
    measured = [record for record in records if record.drift]
    integers = [record for record in measured if record.row.precision not in ("fp32", "fp16")] or measured
    total = np.zeros(count)
    for record in integers:
        assert record.drift is not None
        total += [image.sqnr_db for image in record.drift.images]
    return [int(i) for i in np.argsort(total, kind="stable")[:_SHOWN]]


def _commands(recipe: Recipe) -> tuple[Command, ...]:
    """What to type to get this build again."""
    words = ["edgekit", "build", "--model", recipe.model, "--format", ",".join(recipe.formats)]
    words += ["--precision", ",".join(recipe.precisions)]
    words += ["--image-size", ",".join(f"{h}" if h == w else f"{h}x{w}" for h, w in recipe.image_size)]
    words += ["--calib", recipe.calibration.source, "--samples", str(recipe.calibration.samples)]
    if recipe.heads or recipe.own_heads == "off":
        words += ["--heads", ",".join(f"{name}={source}" for name, source in recipe.heads.items()) or "none"]
    words += ["--eval", recipe.evaluation, "--seed", str(recipe.seed), "--out", "OUT"]
    return (
        Command(text=shlex.join(words), meaning="this build again"),
        Command(text="edgekit bench OUT", meaning="its latency on another machine"),
    )


def _source(source: str) -> str:
    return "the demo photographs" if source == "demo" else Path(source).name
