"""Makes one artifact: export, golden check, audit, drift; whatever goes wrong becomes its row and a log file."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifact import Artifact, ArtifactRow
from edgekit.backends import get_backend
from edgekit.errors import BackendMissing, EdgekitError
from edgekit.golden import check_golden
from edgekit.measure.drift import DriftReport, measure_drift
from edgekit.measure.features import Features, features_of
from edgekit.measure.task import TaskDrift, measure_map_drift
from edgekit.pipeline.jobs import Job
from edgekit.pipeline.materials import Materials
from edgekit.pipeline.records import Record
from edgekit.pipeline.watch import Watcher

if TYPE_CHECKING:
    from edgekit.backends import Runner

LOGS = "logs"  # folder inside a build folder
REFERENCE = "fp32 in torch"


def make(job: Job, materials: Materials, key: str, drift_key: str, watcher: Watcher) -> Record:
    """Export one artifact and measure its drift.

    Never raises for what is wrong with this artifact alone: the row's status and reason say it, and
    OUT/logs/<name>.log holds the traceback. Ctrl-C passes through.
    """
    if job.blocked:
        return Record(key=key, row=job.row("not here", job.blocked))
    watcher.stage(job.name)
    backend = get_backend(job.format)
    try:
        artifact = backend.export(materials.source(job), job.precision, job.variant, materials.out / job.path)
    except BackendMissing as error:
        return Record(key=key, row=job.row("not here", str(error)))
    except Exception as error:
        return Record(key=key, row=job.row("failed", _logged(error, job, materials.out)))
    artifact = artifact.model_copy(update={"name": job.name})
    row = row_of(artifact, materials.out)
    try:
        runner = backend.runner(artifact)
    except BackendMissing as error:
        note = f"built, but not run on this machine: {error.what}" + (f" ({error.why})" if error.why else "")
        return Record(key=key, row=row.model_copy(update={"notes": (*row.notes, note)}))
    except Exception as error:
        return Record(key=key, row=failed(row, _logged(error, job, materials.out)))
    return _measured(Record(key=key, row=row), job, materials, runner, drift_key, watcher)


def _measured(
    record: Record, job: Job, materials: Materials, runner: Runner, drift_key: str, watcher: Watcher
) -> Record:
    """Drift first, so that even an artifact that fails its golden check shows by how much."""
    row = record.row
    try:
        drift = drift_of(runner, job, materials, watcher)
        row = row.model_copy(update={"drift": drift.summary(), "audit": _audit(runner, job)})
        check_golden(golden_home(materials.out, job), runner)
    except Exception as error:
        return record.model_copy(update={"row": failed(row, _logged(error, job, materials.out))})
    return record.model_copy(update={"row": row, "drift_key": drift_key, "drift": drift})


def drift_of(runner: Runner, job: Job, materials: Materials, watcher: Watcher) -> DriftReport:
    """Drift of a runner against the float model in torch on the evaluation images, that of its heads included."""
    images, reference = materials.evaluation(job.size), materials.reference(job.size)
    batch = 1 if isinstance(runner.artifact.inputs[0].shape[0], int) else 4
    features = features_of(
        runner, images.pixel_values, batch, names=images.paths,
        progress=lambda done, total: watcher.stage(f"{job.name}: drift", done, total),
    )  # fmt: skip
    return measure_drift(
        reference, features, reference_name=REFERENCE, candidate_name=job.name, seed=materials.recipe.seed,
        tasks=_tasks(reference, features, materials),
    )  # fmt: skip


def _tasks(reference: Features, candidate: Features, materials: Materials) -> tuple[TaskDrift, ...]:
    return tuple(
        measure_map_drift(
            head.predict(reference.tokens, reference.grid), head.predict(candidate.tokens, candidate.grid),
            head=name, names=reference.names, seed=materials.recipe.seed,
        )
        for name, head in materials.loaded.heads.items()
    )  # fmt: skip


def _audit(runner: Runner, job: Job) -> dict[str, object]:
    """Placement and fusion; a backend that cannot tell leaves the reason, the artifact is none the worse for it."""
    try:
        return get_backend(job.format).audit(runner.artifact)
    except EdgekitError as error:
        return {"unknown": str(error)}


def golden_home(out: Path, job: Job) -> Path:
    """The folder that holds `golden/` for a job's image size: OUT itself for the main one."""
    return out / job.suffix.removeprefix("_") if job.suffix else out


def row_of(artifact: Artifact, out: Path) -> ArtifactRow:
    """The manifest row of an artifact that was made."""
    kept = artifact.model_dump(exclude={"path", "recipe_digest", "parent_sha256"})
    return ArtifactRow(**kept, path=artifact.path.relative_to(out).as_posix(), status="ok")


def failed(row: ArtifactRow, reason: str) -> ArtifactRow:
    """The same row as a failure; its file stays where it is, for whoever looks into it."""
    return row.model_copy(update={"status": "failed", "reason": reason})


def _logged(error: Exception, job: Job, out: Path) -> str:
    """Write the traceback to OUT/logs/<name>.log; returns the reason for the row, in one line."""
    text = str(error) if isinstance(error, EdgekitError) else f"{type(error).__name__}: {error}"
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
