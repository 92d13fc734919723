"""Hands a finished build to the report: measurements, pictures of the worst images, and how to reproduce it."""

from __future__ import annotations

import shlex
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends import get_backend
from edgekit.errors import EdgekitError
from edgekit.heads.own import decoders_of
from edgekit.host import Host
from edgekit.images.sets import ImageSet
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.measure.drift import DriftReport
from edgekit.measure.features import Features, features_of
from edgekit.measure.heads import UNITS
from edgekit.pipeline.choose import Measured
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.make import LOGS, REFERENCE, maps_of
from edgekit.pipeline.plans import plan_file
from edgekit.pipeline.watch import Watcher
from edgekit.precision import is_float
from edgekit.quantization.explanation import Explanation, LayerDrift
from edgekit.recipe import DYNAMIC, Recipe
from edgekit.report.content import BuildReport, Command, ImagePanel, SkippedImage
from edgekit.report.verdict import Verdict

if TYPE_CHECKING:
    from edgekit.report.pictures import Maps

_SHOWN = 6  # images side by side
_LAYERED = 4  # images for the drift behind each block: 4 s of a ViT-S at 224 pixels
_FURTHER = (
    Command(text="edgekit bench OUT --save", meaning="all latencies anew, on this machine or another"),
    Command(text="edgekit explain OUT && edgekit report OUT", meaning="which GEMM the drift comes from"),
    Command(text="edgekit report OUT --against EARLIER", meaning="what changed since an earlier build"),
)


def report_build(
    manifest: Manifest, measured: Measured, verdict: Verdict, context: BuildContext, *, changed: bool, watcher: Watcher
) -> tuple[Path | None, bool]:
    """Write OUT/report.html and OUT/report.json unless they are there and say the same.

    Args:
        manifest: with the choice recorded.
        measured: of the main image size.
        verdict: of `measured`.
        context: of the build.
        changed: whether any artifact was made since the report was written.
        watcher: told what happens.

    Returns:
        The path of the page (None when it could not be drawn; the data are in report.json all the same), and whether
        the report was written.
    """
    page, data = context.out / "report.html", context.out / "report.json"
    report = None
    if not changed and data.exists():
        with suppress(EdgekitError):  # damaged, or of an earlier version: written anew
            report = BuildReport.read_json(data)
    if report and report.verdict == verdict and report.latency == measured.latency:
        return page if page.exists() else None, False
    watcher.stage("report")
    if report is None or report.drift.keys() != measured.drift.keys():
        report = _assemble(manifest, measured, verdict, context, watcher)
    return write_all(_updated(report, manifest, measured, verdict), context.out, watcher), True


def refresh_report(
    out: Path, manifest: Manifest, measured: Measured, verdict: Verdict, watcher: Watcher
) -> Path | None:
    """Put other latencies into the report of a build folder and draw it again; None where there is none to draw.

    Raises:
        DataError: OUT/report.json is damaged.
    """
    if not (out / "report.json").exists():
        return None
    report = BuildReport.read_json(out / "report.json")
    return write_all(_updated(report, manifest, measured, verdict), out, watcher)


def write_all(report: BuildReport, out: Path, watcher: Watcher) -> Path | None:
    """Write the data and draw the page, whose failure is a note and no error."""
    report.write_json(out)
    try:
        from edgekit.report import write_report

        return write_report(report, out)
    except EdgekitError as error:
        watcher.note(f"report.html was not drawn: {error}")
    except OSError:  # of the disk: the page was asked for
        raise
    except Exception as error:
        (out / LOGS).mkdir(exist_ok=True)
        (out / LOGS / "report.log").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        watcher.note(f"report.html was not drawn: {type(error).__name__} {error} [{LOGS}/report.log]")
    return None


def _updated(report: BuildReport, manifest: Manifest, measured: Measured, verdict: Verdict) -> BuildReport:
    """The same pictures beside other latencies, and the verdict on these."""
    return report.model_copy(
        update={
            "manifest": manifest,
            "host": Host.model_validate(manifest.host),
            "reference": measured.reference,
            "drift": measured.drift,
            "latency": measured.latency,
            "verdict": verdict,
            "commands": (*report.commands[:1], *_FURTHER),
        }
    )


def _assemble(
    manifest: Manifest, measured: Measured, verdict: Verdict, context: BuildContext, watcher: Watcher
) -> BuildReport:
    """The report of the main image size; further sizes have their rows in the manifest."""
    from edgekit.report.pictures import thumbnails

    size = context.recipe.main_size
    images, calibration = context.inputs.evaluation(size), context.inputs.calibration(size)
    skipped = (*calibration.skipped, *images.skipped)
    return BuildReport(
        manifest=manifest,
        host=Host.model_validate(manifest.host),
        reference=measured.reference,
        verdict=verdict,
        drift=measured.drift,
        latency=measured.latency,
        thumbnails=thumbnails(images.pixel_values, images.preprocess, images.paths),
        panels=_panels(manifest, measured, context, watcher),
        head=_mapped(context),
        head_note=_note(context),
        evaluation=_words(images),
        calibration=_words(calibration),
        commands=_commands(context.recipe),
        layers=_layers(context, watcher),
        explanation=Explanation.read(context.out),
        skipped=tuple(SkippedImage(name=skip.path, reason=skip.reason) for skip in skipped),
        images_digest=images.digest,
    )


def _panels(manifest: Manifest, measured: Measured, context: BuildContext, watcher: Watcher) -> tuple[ImagePanel, ...]:
    """The images that the integer artifacts change most, run again through every artifact that runs here."""
    from edgekit.report.pictures import panels

    size, reference = context.recipe.main_size, measured.reference
    images = context.inputs.evaluation(size)
    rows = [row for row in manifest.artifacts if row.name in measured.drift]
    show = _worst(rows, measured.drift, len(images))
    features: dict[str, Features] = {}
    if reference == REFERENCE:
        base = context.reference.features(size)
        heads = {name: values[show] for name, values in base.heads.items()}
        features[REFERENCE] = Features(
            base.tokens[show], base.grid, tuple(images.paths[i] for i in show), heads, patch=base.patch
        )
    for row in rows:
        watcher.stage(f"report: pictures of {row.name}")
        try:
            runner = get_backend(row.format).runner(context.artifact_of(row))
            features[row.name] = features_of(
                runner, images.pixel_values[show], patch=images.preprocess.patch, names=[images.paths[i] for i in show]
            )
        except EdgekitError as error:
            watcher.note(f"no pictures of {row.name}: {error}")
    if reference not in features:
        return ()
    features = {reference: features[reference], **features}
    maps = _maps(features, context)
    return panels(
        images.pixel_values[show], images.preprocess, features, reference=reference, maps=maps, show=range(len(show))
    )


def _layers(context: BuildContext, watcher: Watcher) -> LayerDrift | None:
    """The drift behind each block of the main 8-bit plan; None where there is no such plan."""
    size = context.recipe.main_size
    path = context.out / plan_file("int8", size, size)
    if not path.exists():
        return None
    import torch

    from edgekit.plan.quant import QuantPlan
    from edgekit.quantization.explain import layer_drift

    watcher.stage("report: drift behind each block")
    try:
        images = context.inputs.evaluation(size)
        return layer_drift(QuantPlan.load(path), torch.from_numpy(images.pixel_values[:_LAYERED]))
    except EdgekitError as error:
        watcher.note(f"no drift behind each block: {error}")
        return None


def _depth_head(context: BuildContext) -> str:
    """The first head that puts out depths, "" without one."""
    return next((name for name, head in context.inputs.heads.items() if head.task in UNITS), "")


def _mapped(context: BuildContext) -> str:
    """The head whose maps are shown: depth where there is one, else the checkpoint's own decoder."""
    return _depth_head(context) or next(iter(decoders_of(context.loaded)), "")


def _note(context: BuildContext) -> str:
    """The way depths are drawn, in words; "" where none are."""
    name = _depth_head(context)
    if not name:
        return ""
    unit = UNITS[context.inputs.heads[name].task]
    return f"{name} ({unit}), near places bright, in the colours of the first; below each its error against that"


def _maps(features: Mapping[str, Features], context: BuildContext) -> Maps | None:
    """The shown head's maps of the images, by artifact; depths as the files put them out."""
    from edgekit.report.pictures import Maps

    name = _depth_head(context)
    if name:  # another engine's files have no heads
        found = {file: each.heads[name] for file, each in features.items() if name in each.heads}
        return Maps(context.inputs.heads[name].task, found)
    if not (name := _mapped(context)):
        return None
    return Maps("saliency", {file: maps_of(each, context.loaded)[name] for file, each in features.items()})


def _worst(rows: Sequence[ArtifactRow], drift: Mapping[str, DriftReport], count: int) -> list[int]:
    """Indices of the images with the least SQNR summed over the integer artifacts (over all when there is none)."""
    integers = [row for row in rows if not is_float(row.precision)] or rows
    total = np.zeros(count)
    for row in integers:
        total += [image.sqnr_db for image in drift[row.name].images]
    return [int(i) for i in np.argsort(total, kind="stable")[:_SHOWN]]


def _commands(recipe: Recipe) -> tuple[Command, ...]:
    """Commands that make this build again."""
    words = ["edgekit", "build", "--model", recipe.model, "--format", ",".join(recipe.formats)]
    words += ["--precision", ",".join(recipe.precisions)]
    sizes = [f"{h}" if h == w else f"{h}x{w}" for h, w in recipe.image_size]
    sizes += [f"{DYNAMIC}:{recipe.any_size[0]}-{recipe.any_size[1]}"] if recipe.any_size else []
    words += ["--image-size", ",".join(sizes)]
    words += ["--calib", recipe.calibration.source, "--samples", str(recipe.calibration.samples)]
    if recipe.heads or not recipe.own_heads:
        words += ["--heads", ",".join(f"{name}={source}" for name, source in recipe.heads.items()) or "none"]
    words += ["--eval", recipe.evaluation, "--seed", str(recipe.seed), "--out", "OUT"]
    return Command(text=shlex.join(words), meaning="this build again"), *_FURTHER


def _words(images: ImageSet) -> str:
    """`32 crops of 6 demo photographs`, `24 images of pictures`: how many are independent of each other."""
    photographs = len(set(images.groups))
    source = "demo photographs" if images.source == "demo" else f"photographs of {Path(images.source).name}"
    if photographs < len(images):
        return f"{len(images)} crops of {photographs} {source}"
    return f"{len(images)} {source}"
