"""Two checkpoints, usually without and with registers: outlier tokens, object discovery and what the tokens cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.artifact import Preprocess
from edgekit.errors import DataError, RecipeError
from edgekit.heads.own import decoders_of
from edgekit.images.boxes import Box, read_boxes
from edgekit.images.demo import DEMO
from edgekit.images.sets import ImageSet, load_set
from edgekit.measure.latency import LatencyRun, TimingOptions, measure_latency
from edgekit.measure.registers.attention import look_inside
from edgekit.measure.registers.comparison import Looked, RegistersReport, Side
from edgekit.measure.registers.discovery import CORRECT_IOU, correct, iou, localise
from edgekit.measure.registers.norms import measure_norms
from edgekit.measure.torch_runner import target
from edgekit.models import zoo
from edgekit.models.zoo import LoadedModel
from edgekit.progress import StageProgress

_SALIENT = 0.5  # of a saliency head's map


@dataclass(frozen=True)
class Options:
    """Settings of a comparison of two checkpoints."""

    side: int = 224  # of the square images, a multiple of 14
    samples: int | None = 32  # at most this many images; None takes all
    boxes: Path | None = None  # file of true boxes, see `edgekit.images.boxes`; only with it there is a CorLoc
    cutoff: float | None = None  # norm above which a patch is an outlier; None chooses one for each model
    rounds: int = 6  # of timing, at least 3; 0 times nothing
    threads: int | None = None  # while timing


def compare_registers(
    a: str, b: str, images: str | Path = "demo", options: Options = Options(), *, progress: StageProgress | None = None
) -> tuple[RegistersReport, tuple[Looked, Looked], ImageSet]:
    """Compare two checkpoints on the same pixels.

    Args:
        a: name of the zoo or checkpoint, usually without registers.
        b: the other.
        images: a folder, or "demo".
        options: size and number of the images, true boxes, and how the checkpoints are timed.
        progress: told (stage, done, total).

    Raises:
        RecipeError: an unknown model or an impossible image size.
        DataError: no images, or boxes that do not fit them.
    """
    models, side = [zoo.load(name) for name in (a, b)], options.side
    names = [model.name for model in models]
    names = [f"{name} ({letter})" for name, letter in zip(names, "AB", strict=True)] if names[0] == names[1] else names
    shown = load_set(images, _transform(models, side), samples=options.samples, split="evaluation")
    truth = {} if options.boxes is None else _truth(options.boxes, images, shown)
    looked = [_look(name, model, shown, progress) for name, model in zip(names, models, strict=True)]
    targets = [target(name, given, (side, side)) for name, given in zip(names, (a, b), strict=True)]
    run = None
    if options.rounds:
        timing = TimingOptions(rounds=options.rounds)
        run = measure_latency(targets, shown.pixel_values[:1], timing, threads=options.threads, reference=names[0])
    sides = []
    for model, each in zip(models, looked, strict=True):
        timed = run.reports.get(each.name) if run else None
        sides.append(
            Side(
                name=each.name,
                registers=model.model.config.registers,
                tokens=model.model.config.tokens(side, side),
                norms=measure_norms(each.inside.norms, each.inside.attention, cutoff=options.cutoff),
                corloc=_corloc(each, shown, truth),
                salient_iou=_salient_iou(model, each),
                object_share=float(np.mean([found.mask.mean() for found in each.found])),
                p50_ms=timed.p50_ms if timed else None,
                unstable=_doubt(each.name, run),
            )
        )
    same = [iou(*pair) > CORRECT_IOU for pair in zip(looked[0].boxes, looked[1].boxes, strict=True)]
    second = run.reports.get(names[1]) if run else None
    report = RegistersReport(
        a=sides[0],
        b=sides[1],
        images=len(shown),
        annotated=len(truth),
        image_size=(side, side),
        source=str(images),
        same_object=float(np.mean(same)),
        speedup=second.speedup if second else None,
    )
    return report, (looked[0], looked[1]), shown


def _transform(models: Sequence[LoadedModel], side: int) -> Preprocess:
    """The preprocessing that both models want; RecipeError where they want them prepared in two ways."""
    first, second = (model.model.config.preprocess(side, side) for model in models)
    if (first.mean, first.std) != (second.mean, second.std):
        raise RecipeError(
            f"{models[0].name} and {models[1].name} cannot look at the same pixels",
            why="they were trained with other means and deviations",
        )
    return first


def _look(name: str, model: LoadedModel, images: ImageSet, progress: StageProgress | None) -> Looked:
    told = None if progress is None else lambda done, total: progress(name, done, total)
    baked = model.model.bake(*images.preprocess.input_size)
    inside = look_inside(baked, images.pixel_values, images.paths, progress=told)
    found = [localise(keys, inside.features.grid) for keys in inside.keys]
    return Looked(name, inside, found, [each.box(model.model.config.patch) for each in found])


def _doubt(name: str, run: LatencyRun | None) -> str:
    if run is None:
        return ""
    return run.failures[name] if name in run.failures else "; ".join(run.reports[name].noise.reasons)


def _truth(file: Path, images: str | Path, shown: ImageSet) -> dict[str, tuple[Box, ...]]:
    if str(images) == DEMO or not Path(images).is_dir():
        raise DataError(f"{file} needs a folder of images", fix="--images DIR")
    return read_boxes(file, Path(images), shown.paths, shown.preprocess)


def _corloc(looked: Looked, images: ImageSet, truth: dict[str, tuple[Box, ...]]) -> float | None:
    hits = [correct(box, truth[path]) for box, path in zip(looked.boxes, images.paths, strict=True) if path in truth]
    return float(np.mean(hits)) if hits else None


def _salient_iou(model: LoadedModel, looked: Looked) -> float | None:
    """Mean IoU with the box of the checkpoint's own saliency head, over the images where that sees anything."""
    head = decoders_of(model).get("saliency")
    if head is None:
        return None
    maps = head.predict(looked.inside.features.tokens, looked.inside.features.grid)  # type: ignore[operator]
    values = []
    for box, salient in zip(looked.boxes, maps > _SALIENT, strict=True):
        if salient.any():
            rows, columns = np.nonzero(salient)
            seen = float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)
            values.append(iou(box, seen))
    return float(np.mean(values)) if values else None
