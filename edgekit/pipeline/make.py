"""Makes one artifact: export, golden check, audit, drift; whatever goes wrong becomes its row and a log file."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.artifact import OUTPUT_NAMES, Artifact, Preprocess
from edgekit.backends import Runner, get_backend
from edgekit.errors import BackendMissing, DriftExceeded, EdgekitError, ExportError
from edgekit.heads.own import decoders_of
from edgekit.manifest import ArtifactRow
from edgekit.measure.drift import DriftReport, OnTasks, measure_drift
from edgekit.measure.features import Features, features_of
from edgekit.measure.golden import check_golden
from edgekit.measure.heads import HeadDrift, measure_head_drift
from edgekit.measure.task import TaskDrift, measure_map_drift
from edgekit.measure.worker import Target, Worker
from edgekit.metrics import cosine, sqnr_db
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.folder import full_disk
from edgekit.pipeline.jobs import Job, exporter_of
from edgekit.pipeline.records import Record
from edgekit.pipeline.reference import golden_home
from edgekit.pipeline.watch import Watcher

if TYPE_CHECKING:
    from edgekit.models.zoo import LoadedModel


LOGS = "logs"  # folder inside a build folder
REFERENCE = "fp32 in torch"
UNWRITTEN = "cannot write"  # how the reason of a row begins whose file found no room on the disk


def make(job: Job, context: BuildContext, key: str, drift_key: str, watcher: Watcher) -> Record:
    """Export one artifact and measure its drift.

    Never raises for what is wrong with this artifact alone: the row's status and reason say it, and
    OUT/logs/<name>.log holds the traceback. Ctrl-C passes through.
    """
    if job.blocked:
        return Record(key=key, row=job.row("not here", job.blocked))
    watcher.stage(job.name)
    try:
        if job.input == "image":
            from edgekit.pipeline.image_input import make_image_input

            artifact = make_image_input(job, context)
        elif job.arithmetic == "default":
            from edgekit.pipeline.own_arithmetic import run_by_default

            artifact = run_by_default(job, context)
        elif job.engine == "nncf":
            from edgekit.pipeline.nncf import make_nncf

            artifact = make_nncf(job, context)
        else:
            backend = exporter_of(job, context.recipe)
            artifact = backend.export(context.source(job), job.precision, job.variant, context.out / job.path)
    except BackendMissing as error:
        return Record(key=key, row=job.row("not here", str(error)))
    except Exception as error:
        return Record(key=key, row=job.row("failed", _logged(error, job, context.out)))
    row = ArtifactRow.of(artifact.model_copy(update={"name": job.name}), context.out)
    if job.input == "image":  # compared with its sibling already, which is examined
        return Record(key=key, row=row, drift_key=drift_key)
    return _examined(Record(key=key, row=row), job, context, drift_key, watcher)


def _examined(record: Record, job: Job, context: BuildContext, drift_key: str, watcher: Watcher) -> Record:
    """The record of an exported artifact after its drift and its golden check, as far as it runs here."""
    row = record.row
    try:
        if job.variant == "fused" or get_backend(job.format).own_kernels:
            _smoke_test_in_subprocess(context.artifact_of(row), context.inputs.evaluation(job.size).pixel_values[:1])
        runner = get_backend(job.format).runner(context.artifact_of(row))
        if drift_key:  # before the golden check, so that even an artifact that fails it shows by how much
            drift = drift_of(runner, job, context, watcher)
            summary = drift.summary()
            if job.sides:
                summary["sizes"] = _drift_of_sizes(runner, job, context, watcher)
            row = row.model_copy(update={"drift": summary, "audit": _audit(runner, job)})
            record = record.model_copy(update={"row": row, "drift_key": drift_key, "drift": drift})
        try:
            check_golden(golden_home(context.out, job), runner)
        except DriftExceeded as error:
            if job.engine == "edgekit" and job.arithmetic == "plan":
                raise
            row = row.model_copy(update={"notes": (*row.notes, error.what)})  # a peer may be bad: that is its figure
            record = record.model_copy(update={"row": row})
    except BackendMissing as error:
        note = f"built, but not run on this machine: {error}"
        return record.model_copy(
            update={"row": row.model_copy(update={"notes": (*row.notes, note)}), "drift_key": drift_key}
        )
    except Exception as error:
        return record.model_copy(update={"row": failed(row, _logged(error, job, context.out))})
    return record


def _smoke_test_in_subprocess(artifact: Artifact, pixel_values: np.ndarray) -> None:
    """Run once in a process of its own: native code that crashes there is a failed row, not the end of the build.

    Raises:
        ExportError: the process was ended, or the artifact does not run in it.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        pixels = Path(folder) / "pixels.npy"
        np.save(pixels, pixel_values)
        try:
            Worker(Target.of(artifact), pixels, threads=None).close()
        except BackendMissing as error:
            raise ExportError(error.what, why=error.why, fix="edgekit doctor") from error


def drift_of(runner: Runner, job: Job, context: BuildContext, watcher: Watcher) -> DriftReport:
    """Drift of a runner against the float model in torch on the evaluation images, that of its heads included."""
    images, reference = context.inputs.evaluation(job.size), context.reference.features(job.size)
    judge = context.reference.judge(job.size)
    batch = 1 if isinstance(runner.artifact.inputs[0].shape[0], int) else 4
    features = features_of(
        runner,
        images.pixel_values,
        batch,
        patch=images.preprocess.patch,
        names=images.paths,
        groups=images.groups,
        progress=lambda done, total: watcher.stage(f"{job.name}: drift", done, total),
    )
    return measure_drift(
        reference,
        features,
        reference_name=REFERENCE,
        candidate_name=job.name,
        seed=context.recipe.seed,
        on_tasks=OnTasks(
            maps=_tasks(reference, features, context),
            accuracy=judge.measure(features) if judge else (),
            heads=_heads(reference, features, context),
        ),
    )


def _drift_of_sizes(runner: Runner, job: Job, context: BuildContext, watcher: Watcher) -> dict[str, dict[str, float]]:
    """Drift of a file for any size at its smallest and its largest, and at one that is not square: on a few images."""
    found = {}
    for size in looked_at(context.inputs.transform(job)):
        name = f"{size[0]}x{size[1]}"
        watcher.stage(f"{job.name}: drift at {name}")
        pixels, expected = context.reference.few(size)
        actual = np.concatenate([runner(pixels[i : i + 1])[OUTPUT_NAMES[0]] for i in range(len(pixels))])
        found[name] = {
            "images": len(pixels),
            "sqnr_db": round(sqnr_db(expected, actual), 2),
            "cls_cosine_mean": round(float(cosine(actual[:, 0], expected[:, 0]).mean()), 6),
        }
    return found


def looked_at(transform: Preprocess) -> tuple[tuple[int, int], ...]:
    """The sizes, other than its own, at which the drift of a file for any is measured."""
    least, most = transform.sides or transform.input_size
    wanted = transform.nearest_size(least, least), transform.lying_size, transform.nearest_size(most, most)
    return tuple(size for size in dict.fromkeys(wanted) if size != transform.input_size)


def maps_of(features: Features, loaded: LoadedModel) -> dict[str, np.ndarray]:
    """Maps (n, H, W) that each dense head of a model makes of features, by its name."""
    return {name: head.predict(features.tokens, features.grid) for name, head in decoders_of(loaded).items()}


def _tasks(reference: Features, candidate: Features, context: BuildContext) -> tuple[TaskDrift, ...]:
    expected, actual = (maps_of(features, context.loaded) for features in (reference, candidate))
    return tuple(
        measure_map_drift(
            expected[head],
            actual[head],
            head=head,
            names=reference.names,
            groups=reference.groups,
            seed=context.recipe.seed,
        )
        for head in expected
    )


def _heads(reference: Features, candidate: Features, context: BuildContext) -> tuple[HeadDrift, ...]:
    return tuple(
        measure_head_drift(
            name,
            head.task,
            reference.heads[name],
            candidate.heads[name],
            groups=reference.groups,
            seed=context.recipe.seed,
        )
        for name, head in context.inputs.heads.items()
        if name in candidate.heads  # another engine's file has none
    )


def _audit(runner: Runner, job: Job) -> dict[str, object]:
    """Placement and fusion; a backend that cannot tell leaves the reason, the artifact is none the worse for it."""
    try:
        return get_backend(job.format).audit(runner.artifact)
    except EdgekitError as error:
        return {"unknown": str(error)}


def failed(row: ArtifactRow, reason: str) -> ArtifactRow:
    """The same row as a failure; its file stays where it is, for whoever looks into it."""
    return row.model_copy(update={"status": "failed", "reason": reason})


def _logged(error: Exception, job: Job, out: Path) -> str:
    """Write the traceback to OUT/logs/<name>.log; returns the reason for the row, in one line."""
    text = str(error) if isinstance(error, EdgekitError) else f"{type(error).__name__}: {error}"
    if why := full_disk(error, out / job.path):
        return f"{UNWRITTEN} {why}"
    path = out / LOGS / f"{job.slug}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:  # a full disk must not hide the error it caused
        return _line(text)
    return f"{_line(text)} [{LOGS}/{path.name}]"


def _line(text: str, limit: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
