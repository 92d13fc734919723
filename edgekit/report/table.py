"""The table of artifacts: its columns with what each means, and every row as cells of text with a key to sort by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgekit.manifest import ArtifactRow
from edgekit.measure.drift import DriftReport
from edgekit.measure.latency import LatencyReport, Speedup
from edgekit.measure.ratio import ratio_range
from edgekit.measure.statistics import Rate
from edgekit.report import numbers
from edgekit.report.content import BuildReport

MEMORY = (
    "Peak RSS: the most memory that the process which runs this one file ever held, Python, runtime and model together."
)


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it means, and which way a first click sorts it, the best at the top."""

    label: str
    meaning: str
    first: Literal["ascending", "descending"]


COLUMNS = (
    Column("size", "Size of the file on disk, with its weights.", "ascending"),
    Column(
        "SQNR", "Signal to quantization noise over all output tokens: 10 dB less is ten times the error.", "descending"
    ),
    Column("CLS cosine", "Mean cosine of the class token with that of FP32.", "descending"),
    Column("worst image", "Least cosine of a class token with that of FP32.", "descending"),
    Column("patch cosine", "Mean cosine of the patch tokens with those of FP32.", "descending"),
    Column("own gallery", "Images whose nearest neighbour among features of the same artifact stayed.", "descending"),
    Column("FP32 gallery", "Images whose nearest neighbour among FP32 features stayed.", "descending"),
    Column("p50", "Median of one call with one image.", "ascending"),
    Column("p90", "Nine of ten calls with one image are as fast.", "ascending"),
    Column("vs FP32", "Speed relative to the FP32 file of the same run, with its 95 % interval.", "descending"),
    Column("peak RSS", MEMORY, "ascending"),
)


@dataclass(frozen=True)
class Cell:
    """One cell: text, small print below it, and the number that sorts it; None where nothing was measured."""

    label: str
    text: str
    key: float | None = None
    small: str = ""


@dataclass(frozen=True)
class Row:
    """One artifact: its cells in the order of `COLUMNS`, or why there are none."""

    name: str
    format: str
    precision: str
    status: str
    reason: str
    cells: tuple[Cell, ...] = ()
    share: float = field(default=0.0)  # of the largest file's size, in percent


def table(report: BuildReport) -> list[Row]:
    """Every artifact of a build, in its order; dashes for what was not measured."""
    rows = report.manifest.artifacts
    largest = max((row.size_mb or 0.0 for row in rows), default=0.0)
    return [
        Row(
            row.name,
            row.format,
            row.precision,
            row.status,
            row.reason,
            _cells(row, report.drift.get(row.name), report.latency.get(row.name)) if row.status == "ok" else (),
            round(100 * (row.size_mb or 0.0) / largest, 1) if largest else 0.0,
        )
        for row in rows
    ]


def choices(rows: list[Row]) -> Mapping[str, list[str]]:
    """The formats and precisions that a filter offers, in the order of the table."""
    return {
        "format": list(dict.fromkeys(row.format for row in rows)),
        "precision": list(dict.fromkeys(row.precision for row in rows)),
    }


def _cells(row: ArtifactRow, drift: DriftReport | None, latency: LatencyReport | None) -> tuple[Cell, ...]:
    sqnr, cls = (drift.sqnr_db.value, drift.cls_cosine) if drift else (None, None)
    patch = drift.patch_cosine.mean if drift else None
    mean, least = (cls.mean, cls.min) if cls else (None, None)
    p50, p90, memory = (latency.p50_ms, latency.p90_ms, latency.peak_rss_mb) if latency else (None, None, None)
    found = (
        (numbers.megabytes(row.size_mb), row.size_mb, ""),
        (numbers.decibels(sqnr), sqnr, ""),
        (numbers.cosine(mean), mean, ""),
        (numbers.cosine(least), least, ""),
        (numbers.cosine(patch), patch, ""),
        _rate(drift.own.nn_agreement if drift else None),
        _rate(drift.mixed.nn_agreement if drift else None),
        (numbers.milliseconds(p50), p50, ""),
        (numbers.milliseconds(p90), p90, ""),
        _speed(latency.speedup if latency else None),
        (numbers.megabytes(memory), memory, ""),
    )
    return tuple(Cell(column.label, *cell) for column, cell in zip(COLUMNS, found, strict=True))


def _rate(rate: Rate | None) -> tuple[str, float | None, str]:
    return numbers.percent(rate), rate.value if rate else None, numbers.percent_range(rate)


def _speed(speedup: Speedup | None) -> tuple[str, float | None, str]:
    """With the interval below, unless it stands in the place of the ratio already."""
    text = numbers.speed(speedup)
    interval = ratio_range(speedup.low, speedup.high) if speedup else ""
    return text, speedup.value if speedup else None, "" if interval == text else interval
