"""Latency of everything a build folder holds, measured together: all rows of an image size are of one run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.artifact import FORMATS, IMAGE_NAME
from edgekit.backends import artifact_of, get_backend
from edgekit.errors import DataError
from edgekit.host import describe_host
from edgekit.manifest import ArtifactRow, Manifest, TimingRun
from edgekit.measure.golden import read_golden
from edgekit.measure.latency import LatencyReport, LatencyRun, TimingOptions, measure_latency
from edgekit.pipeline.records import Record, digest_of
from edgekit.pipeline.watch import Watcher
from edgekit.precision import REFERENCE, is_reference

Size = tuple[int, int]  # (height, width) in pixels

_BUDGET_S = 6.0  # seconds of inference per artifact
_NOTE = "not timed here:"


@dataclass(frozen=True)
class Timing:
    """Settings of a timing; `again` measures even where nothing has changed."""

    threads: int | None = None  # of each runtime; None leaves it to the runtime
    rounds: int = 10
    seed: int = 0
    again: bool = False


def size_of(row: ArtifactRow) -> Size | None:
    """Height and width of an artifact's images; None of a row without a file."""
    return row.preprocess.input_size if row.preprocess else None


def reference_name(rows: Sequence[ArtifactRow], suffix: str | None = "") -> str | None:
    """The FP32 artifact that others are compared with: ONNX if there is one, else the first; None without any.

    `suffix` is what the names of the image size end in, "" for the main one; None where all rows are of one size.
    """
    names = [row.name for row in rows if row.status == "ok" and is_reference(row.precision, row.variant)]
    wanted = r"(_\d+x\d+)?" if suffix is None else re.escape(suffix)
    names = [name for name in names if re.fullmatch(f"{REFERENCE}{wanted}", name.partition("/")[2])]
    first = next(iter(FORMATS))
    return min(names, key=lambda name: (name.partition("/")[0] != first, names.index(name)), default=None)


def timed(
    records: Mapping[str, Record], manifest: Manifest, out: Path, timing: Timing, watcher: Watcher
) -> tuple[dict[str, Record], tuple[str, ...]]:
    """The records with latencies, and the names that were timed now.

    Where anything of an image size has changed, all of its artifacts are timed anew, those of earlier recipes too: a
    table holds one interleaved run. What cannot run here loses its latency, and a note of its row says why.

    Args:
        records: of all artifacts of the folder; what changes is written.
        manifest: of the folder.
        out: the folder.
        timing: how.
        watcher: told what happens.
    """
    done, now = dict(records), []
    for size, group in _by_size(records.values()):
        key = digest_of(
            artifacts={record.row.name: record.row.sha256 for record in group},
            threads=timing.threads,
            host=describe_host().model_dump(exclude={"ram_gb"}),
            runs=1,
        )
        if not timing.again and all(record.latency_key == key for record in group):
            continue
        run = _measure(group, manifest, out, size, timing, watcher)
        now += list(run.reports)
        for record in group:
            done[record.row.name] = _with_latency(record, run, key)
            done[record.row.name].write(out)
    return done, tuple(now)


def runs_of(reports: Iterable[LatencyReport | None]) -> tuple[TimingRun, ...]:
    """The runs that latencies are of, each once."""
    found = {report.run.id: report.run for report in reports if report and report.run}
    return tuple(found.values())


def _by_size(records: Iterable[Record]) -> list[tuple[Size, list[Record]]]:
    """The finished artifacts of each image size."""
    groups: dict[Size, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.row.name):
        if record.row.status == "ok" and (size := size_of(record.row)):
            groups.setdefault(size, []).append(record)
    return list(groups.items())


def _left_out(row: ArtifactRow) -> str | None:
    """Why a build does not time an artifact; `edgekit bench` times those of devices of another kind when asked."""
    return get_backend(row.format).why_untimed(row.precision)


def _takes_images(row: ArtifactRow) -> bool:
    """Whether it runs the network of a sibling behind the transform."""
    return bool(row.inputs) and row.inputs[0].name == IMAGE_NAME


def _measure(
    group: Sequence[Record], manifest: Manifest, out: Path, size: Size, timing: Timing, watcher: Watcher
) -> LatencyRun:
    rows = [record.row for record in group if not _takes_images(record.row) and not _left_out(record.row)]
    if not rows:
        return LatencyRun(reports={}, failures={})
    step = iter(range(10_000))
    return measure_latency(
        [artifact_of(row, manifest, out) for row in rows],
        _pixels(out, size, timing.seed),
        TimingOptions(rounds=timing.rounds, budget_s=_BUDGET_S, gap_s=0.1, seed=timing.seed),
        threads=timing.threads,
        reference=reference_name(rows, suffix=None),
        notify=lambda text: watcher.stage(f"latency: {text}", next(step), len(rows) + timing.rounds),
    )


def _pixels(out: Path, size: Size, seed: int) -> np.ndarray:
    """One image (1, 3, H, W): the first golden input of the size, else noise, which takes as long."""
    for home in (out, out / f"{size[0]}x{size[1]}"):
        try:
            pixels = read_golden(home)[0][:1]
        except DataError:
            continue
        if pixels.shape[-2:] == size:
            return pixels
    return np.random.default_rng(seed).standard_normal((1, 3, *size)).astype(np.float32)


def _with_latency(record: Record, run: LatencyRun, key: str) -> Record:
    name = record.row.name
    notes = tuple(note for note in record.row.notes if not note.startswith(_NOTE))
    if name in run.reports:
        report = run.reports[name]
        row = record.row.model_copy(update={"latency": report.summary(), "notes": notes})
        return record.model_copy(update={"row": row, "latency": report, "latency_key": key})
    if why := run.failures.get(name) or _left_out(record.row):
        earlier = "; its earlier latency was of another run" if record.latency else ""
        notes = (*notes, f"{_NOTE} {why}{earlier}")
    row = record.row.model_copy(update={"latency": None, "notes": notes})
    return record.model_copy(update={"row": row, "latency": None, "latency_key": key})
