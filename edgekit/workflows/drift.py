"""Drift over any number of images: shards compute the terms, and the same functions as for a few sum them up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edgekit.artifact import Artifact
from edgekit.errors import DataError, RecipeError
from edgekit.files import atomic_path
from edgekit.images.demo import DEMO
from edgekit.images.listing import Listing
from edgekit.images.sets import in_order_of_trial
from edgekit.measure.accuracy import AccuracyJudge
from edgekit.measure.drift import DriftReport, OnTasks, report_of, searched
from edgekit.measure.features import Features
from edgekit.measure.statistics import decibel
from edgekit.measure.terms import Terms
from edgekit.pipeline.watch import Silent, Watcher
from edgekit.shards import Ran, Shard, WorkerPool, cut, files, run_shards
from edgekit.shards.drift import CENTRE, REPORT, SIZE, TABLE, CentreTask, DriftTask, same_size


class Draw(NamedTuple):
    """The number of images that are drawn from a folder, and the seed."""

    samples: int
    seed: int = 0


def drift_in_shards(
    reference: Artifact,
    candidates: Sequence[Artifact],
    source: str,
    out: Path,
    pool: WorkerPool,
    *,
    draw: Draw,
    shard_size: int | None = None,
    watcher: Watcher | None = None,
) -> tuple[dict[str, DriftReport], Ran]:
    """The numbers of `drift_between`, bit for bit, with no more than a few images in memory, and resumable.

    The reference runs twice: "centred" cosines need its mean token first. This process sums up candidate by candidate,
    which takes about 16 kB per image at 224 pixels. Above 4096 images, neighbours and accuracy are
    measured among 4096 of them, and the report names the 100 worst; `images.parquet` holds every image's numbers.
    An unreadable image is not replaced by another.

    Args:
        reference: the FP32 artifact.
        candidates: of the same image size.
        source: a folder of images.
        out: a new folder, or that of an earlier run.
        pool: who computes.
        draw: of the images, as `load_set` draws them; its seed is also the bootstrap's.
        shard_size: images per shard, 1024 by default.
        watcher: told of the progress.

    Returns:
        The reports, also in `out`/drift.json, and what was run.

    Raises:
        DataError: no images, another image size than the reference's, values that are not finite, or `out` is another
            folder.
        BackendMissing: a runtime, pyarrow or Ray is missing.
        RecipeError: the demo photographs, which are no folder, or an impossible pool.
    """
    watcher, (samples, seed) = watcher or Silent(), draw
    pool.require_engine()
    files.require_pyarrow()
    if source == DEMO:
        raise RecipeError("the demo photographs are no folder", why="shards are of files", fix="--eval DIR")
    for candidate in candidates:
        same_size(reference, candidate)
    reference, *others = (one.model_copy(update={"path": one.path.resolve()}) for one in (reference, *candidates))
    images = Listing.scan(Path(source).resolve())
    images = images.take(in_order_of_trial(list(range(len(images))), samples, seed)[:samples])
    about = {
        "reference": _words(reference),
        "source": source,
        "samples": samples,
        "seed": seed,
        "shard_size": shard_size or SIZE,
    }

    first = CentreTask(root=images.root, reference=reference)
    shards = cut(images, shard_size or SIZE, first.digest())
    before = run_shards(
        first,
        shards,
        out / CENTRE,
        pool,
        about=about,
        progress=lambda done, total: watcher.stage(f"{reference.name}: mean", done, total),
    )
    centre = first.centre(out / CENTRE, shards)

    task = DriftTask(
        root=images.root,
        reference=reference,
        candidates=tuple(others),
        centre_cls=tuple(centre.cls.tolist()),
        centre_patch=tuple(centre.patch.tolist()),
    )
    shards = cut(images, shard_size or SIZE, task.digest())
    about = {**about, "candidates": [_words(candidate) for candidate in others]}
    ran = run_shards(
        task, shards, out, pool, about=about, progress=lambda done, total: watcher.stage("drift", done, total)
    )
    if ran.failures != before.failures:
        raise DataError(f"images in {source} changed while they were measured", fix="the same command again")
    unread = {failure.path for failure in ran.failures}
    kept = [i for i, path in enumerate(images.paths) if path not in unread]
    names = [images.paths[i] for i in kept]
    labels = [images.labels[i] for i in kept] if images.labels else None
    reports = _reports(task, out, shards, names, labels, seed)
    return reports, ran


def _reports(
    task: DriftTask, out: Path, shards: tuple[Shard, ...], names: list[str], labels: list[str] | None, seed: int
) -> dict[str, DriftReport]:
    reports: dict[str, DriftReport] = {}
    table: dict[str, list[np.ndarray]] = {}
    compared = searched(len(names), seed)
    judge: AccuracyJudge | None = None
    for index, candidate in enumerate(task.candidates):
        terms = task.terms(out, shards, index)
        if labels is not None:
            judge = judge or AccuracyJudge(
                _features(terms.reference_cls[compared]), [labels[i] for i in compared], seed=seed
            )
        reports[candidate.name] = report_of(
            terms,
            names,
            task.reference.preprocess.input_size,
            reference_name=task.reference.name,
            candidate_name=candidate.name,
            seed=seed,
            on_tasks=OnTasks(accuracy=judge.measure(_features(terms.candidate_cls[compared])) if judge else ()),
        )
        for name, values in _per_image(terms).items():
            table.setdefault(name, []).append(values)
    columns = {"path": names * len(reports), "artifact": [name for name in reports for _ in names]}
    files.write_table(out / TABLE, columns, {name: np.concatenate(values) for name, values in table.items()})
    with atomic_path(out / REPORT) as temporary:
        content = {name: report.model_dump(mode="json") for name, report in reports.items()}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return reports


def _features(cls: np.ndarray) -> Features:
    """Class tokens alone, which is all that accuracy looks at."""
    return Features(cls[:, None], (0, 0), tuple(str(i) for i in range(len(cls))))


def _per_image(terms: Terms) -> dict[str, np.ndarray]:
    sqnr = [decibel(signal, noise) for signal, noise in zip(terms.signal.sum(1), terms.noise.sum(1), strict=True)]
    return {
        "cls_cosine": terms.cls,
        "centred_cls_cosine": terms.centred_cls,
        "patch_cosine_mean": terms.patches.mean(1),
        "patch_cosine_min": terms.patches.min(1),
        "sqnr_db": np.array(sqnr),
    }


def _words(artifact: Artifact) -> dict[str, str]:
    return {"name": artifact.name, "sha256": artifact.sha256}
