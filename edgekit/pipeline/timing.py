"""Latency of everything a build made, measured together so that the artifacts can be compared with each other."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from edgekit.artifact import ArtifactRow, Format
from edgekit.backends import get_backend
from edgekit.measure.host import describe_host
from edgekit.measure.latency import LatencyRun, measure_latency
from edgekit.pipeline.context import Materials
from edgekit.pipeline.jobs import Job
from edgekit.pipeline.make import artifact_from
from edgekit.pipeline.records import Record, digest_of
from edgekit.pipeline.watch import Watcher
from edgekit.precision import Precision

_BUDGET_S = 6.0  # seconds of inference per artifact


def reference_name(rows: Sequence[ArtifactRow], suffix: str = "") -> str | None:
    """The FP32 artifact that others are compared with: ONNX if there is one, else the first; None without any."""
    names = [row.name for row in rows if row.status == "ok" and row.precision == "fp32" and row.variant == "standard"]
    names = [name for name in names if name.partition("/")[2] == f"fp32{suffix}"]
    return min(names, key=lambda name: (not name.startswith("onnx/"), names.index(name)), default=None)


def timed(
    jobs: Sequence[Job], records: dict[str, Record], materials: Materials, threads: int | None, watcher: Watcher
) -> dict[str, Record]:
    """The records with latencies: those at hand when nothing changed, else all of an image size measured anew."""
    done = dict(records)
    for suffix in dict.fromkeys(job.suffix for job in jobs):
        group = [job for job in jobs if job.suffix == suffix and records[job.name].row.status == "ok"]
        if not group:
            continue
        key = digest_of(
            artifacts={job.name: records[job.name].key for job in group},
            threads=threads,
            host=describe_host().model_dump(exclude={"ram_gb"}),
        )
        if all(records[job.name].latency_key == key for job in group):
            continue
        run = _measure(group, records, materials, threads, watcher)
        for job in group:
            done[job.name] = _with_latency(records[job.name], run, key)
            done[job.name].write(materials.out)
    return done


def untimed(format_: Format) -> str | None:
    """Why a format's latency means nothing on this machine, None where it does."""
    if format_ == "coreml" and platform.system() != "Darwin":
        return "Core ML runs on macOS and iOS only; here its program is interpreted, which proves drift, not speed"
    return None


def _left_out(format_: Format, precision: Precision) -> str | None:
    """Why a build does not time an artifact; `edgekit bench` times the second kind, when asked for it."""
    if precision == "w8a16":
        return "made for devices that multiply int16 themselves; a CPU has slow reference code for it"
    return untimed(format_)


def _measure(
    group: Sequence[Job], records: dict[str, Record], materials: Materials, threads: int | None, watcher: Watcher
) -> LatencyRun:
    group = [job for job in group if job.input == "pixel_values"]  # others run the same network
    group = [job for job in group if not _left_out(job.format, job.precision)]
    runnable = [job for job in group if not get_backend(job.format).runner_missing()]
    rows = [records[job.name].row for job in runnable]
    if not runnable:
        return LatencyRun(reports={}, failures={})
    step = iter(range(10_000))
    return measure_latency(
        [artifact_from(row, materials) for row in rows],
        materials.evaluation(group[0].size).pixel_values[:1],
        threads=threads,
        reference=reference_name(rows, group[0].suffix),
        budget_s=_BUDGET_S,
        gap_s=0.1,
        seed=materials.recipe.seed,
        notify=lambda text: watcher.stage(f"latency: {text}", next(step), len(rows) + 10),
    )


def _with_latency(record: Record, run: LatencyRun, key: str) -> Record:
    name = record.row.name
    notes = tuple(note for note in record.row.notes if not note.startswith("not timed here:"))
    if name in run.reports:
        report = run.reports[name]
        row = record.row.model_copy(update={"latency": report.summary(), "notes": notes})
        return record.model_copy(update={"row": row, "latency": report, "latency_key": key})
    if why := run.failures.get(name) or _left_out(record.row.format, record.row.precision):
        notes = (*notes, f"not timed here: {why}")
    row = record.row.model_copy(update={"latency": None, "notes": notes})
    return record.model_copy(update={"row": row, "latency": None, "latency_key": key})
