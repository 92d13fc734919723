"""Turns a BuildReport into one HTML page: the template, its numbers as text, and the charts as drawings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgekit.artifact import ArtifactRow
from edgekit.backends.placement import placement
from edgekit.measure.drift import ImageDrift
from edgekit.measure.heads import HeadDrift
from edgekit.measure.latency import Speedup
from edgekit.measure.ratio import ratio_range
from edgekit.precision import is_float
from edgekit.quantization.explanation import Explanation
from edgekit.report import numbers
from edgekit.report.changes import changes
from edgekit.report.content import BuildReport
from edgekit.report.template import CHART_WIDTH, render, svg

_PICTURED = 5  # artifacts side by side
_LISTED = 12  # images in the table


@dataclass(frozen=True)
class Chart:
    """One drawing with its heading."""

    title: str
    text: str
    svg: str


def render_page(report: BuildReport, against: BuildReport | None = None) -> str:
    """The whole page as text, with what changed since `against`. Raises BackendMissing without the report extra."""
    judged = _judged(report)
    return render(
        "page.html",
        report=report,
        rows=[_words(row, report) for row in report.manifest.artifacts],
        charts=_charts(report),
        explained=_explained(report.explanation) if report.explanation else [],
        changes=changes(against, report) if against else (),
        heads=[(name, _head_words(head)) for name, drift in report.drift.items() for head in drift.heads],
        tasks=[(name, task) for name, drift in report.drift.items() for task in drift.accuracy],
        sizes=_sizes(report),
        shown=_pictured(report),
        worst=_worst(report, judged),
        worst_of=judged,
        placements=[(row.name, placement(row.audit)) for row in report.manifest.artifacts if row.audit],
        notes=[(row.name, note) for row in report.manifest.artifacts for note in row.notes],
        noisy=[(name, latency.noise.reasons) for name, latency in report.latency.items() if not latency.stable],
        timing=numbers.timing(report.run) if report.latency else "",
    )


def _words(row: ArtifactRow, report: BuildReport) -> dict[str, Any]:
    """One row of the table; dashes for what was not measured."""
    drift, latency = report.drift.get(row.name), report.latency.get(row.name)
    speedup = latency.speedup if latency else None
    largest = max((other.size_mb or 0.0 for other in report.manifest.artifacts), default=0.0)
    return {
        **row.model_dump(include={"name", "status", "reason", "precision", "size_mb"}),
        "bar": round(100 * (row.size_mb or 0.0) / largest, 1) if largest else 0,
        "sqnr": numbers.decibels(drift.sqnr_db.value if drift else None),
        "cls": numbers.cosine(drift.cls_cosine.mean if drift else None),
        "worst": numbers.cosine(drift.cls_cosine.min if drift else None),
        "patch": numbers.cosine(drift.patch_cosine.mean if drift else None),
        "neighbour": numbers.percent(drift.own.nn_agreement if drift else None),
        "neighbour_range": numbers.percent_range(drift.own.nn_agreement if drift else None),
        "mixed": numbers.percent(drift.mixed.nn_agreement if drift else None),
        "mixed_range": numbers.percent_range(drift.mixed.nn_agreement if drift else None),
        "p50": numbers.milliseconds(latency.p50_ms if latency else None),
        "p90": numbers.milliseconds(latency.p90_ms if latency else None),
        "speed": numbers.speed(speedup),
        "speed_range": _speed_range(speedup),
        "memory": numbers.megabytes(latency.peak_rss_mb if latency else None),
    }


def _head_words(head: HeadDrift) -> dict[str, str]:
    """One row of the table of heads."""
    return {
        "head": head.head,
        "measure": f"{head.measure} {head.unit}".rstrip(),
        "value": numbers.small(head.value.value),
        "range": f"{numbers.small(head.value.low)} to {numbers.small(head.value.high)}",
        "further": ", ".join(f"{each.measure} {each.value.value:.4f}" for each in head.further),
    }


def _speed_range(speedup: Speedup | None) -> str:
    """The interval, unless it stands in the place of the ratio already."""
    interval = ratio_range(speedup.low, speedup.high) if speedup else ""
    return "" if interval == numbers.speed(speedup) else interval


def _judged(report: BuildReport) -> str:
    """The artifact whose images are listed: the recommended one if quantized, else the one that drifts most."""
    rows = {row.name: row for row in report.manifest.artifacts}
    integers = [name for name in report.drift if name in rows and not is_float(rows[name].precision)]
    if report.verdict.choice in integers:
        return str(report.verdict.choice)
    return min(integers or report.drift, key=lambda name: report.drift[name].sqnr_db.value, default="")


def _worst(report: BuildReport, judged: str) -> tuple[ImageDrift, ...]:
    return report.drift[judged].worst(_LISTED) if judged else ()


def _sizes(report: BuildReport) -> list[tuple[str, str, dict[str, Any]]]:
    """Artifact, image size and drift there, of the files that take any size."""
    drifts = [(row.name, (row.drift or {}).get("sizes", {})) for row in report.manifest.artifacts]
    return [(name, size, found) for name, sizes in drifts for size, found in sizes.items()]


def _pictured(report: BuildReport) -> list[str]:
    """The reference, the choice, and the artifacts that drift most: as many as fit side by side."""
    if not report.panels:
        return []
    there = report.panels[0].pca
    by_drift = sorted(report.drift, key=lambda name: report.drift[name].sqnr_db.value)
    wanted: Iterable[str | None] = (report.reference, report.verdict.choice, *by_drift)
    return [name for name in dict.fromkeys(wanted) if name in there][:_PICTURED]  # type: ignore[misc]


def _charts(report: BuildReport) -> list[Chart]:
    """Every chart there are numbers for."""
    from edgekit.report import charts, verdict

    rows = {row.name: row for row in report.manifest.artifacts}
    found = verdict.candidates(report.manifest.artifacts, report.drift, report.latency, reference=report.reference)
    drawn = []
    if found:
        formats = {row.name: row.format for row in report.manifest.artifacts}
        text = "Up and to the left is better. The line joins those that no other artifact beats in both."
        drawn.append(Chart("Drift against latency", text, svg(charts.trade_off(found, formats, CHART_WIDTH))))
    if report.latency:
        drawn.append(
            Chart(
                "Latency",
                "Every timed call is a tick; the thick one is the median.",
                svg(charts.latency_strips(report.latency, rows)),
            )
        )
    if report.drift:
        drawn.append(
            Chart(
                "Drift of every image",
                "Every evaluation image is a dot.",
                svg(charts.drift_strips(report.drift, rows, {})),
            )
        )
    if report.latency:
        drawn.append(
            Chart(
                "Memory",
                "Peak of each artifact's own process, above the interpreter's.",
                svg(charts.memory_bars(report.latency, rows)),
            )
        )
    return drawn


def _explained(found: Explanation) -> list[Chart]:
    """The charts of explain.json, where `edgekit explain` left one."""
    from edgekit.report import explained

    drawn = [
        Chart(
            "Block by block",
            "Error of the residual stream behind each block, all GEMMs integer.",
            svg(explained.block_lines(found)),
        ),
        Chart(
            "GEMM by GEMM",
            "Each quantized alone; the shares are of the sum of their noise.",
            svg(explained.gemm_bars(found)),
        ),
    ]
    if found.steps:
        drawn.append(
            Chart(
                "Step by step",
                "What the plan loses when it is made without one step of the recipe.",
                svg(explained.step_bars(found)),
            )
        )
    return drawn
