"""Turns a BuildReport into one HTML page: the template, its numbers as text, and the charts as drawings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.artifact import FORMATS
from edgekit.backends.placement import placement
from edgekit.measure.drift import ImageDrift
from edgekit.measure.heads import HeadDrift
from edgekit.precision import is_float
from edgekit.quantization.explanation import Explanation
from edgekit.report import numbers
from edgekit.report.changes import changes, summary
from edgekit.report.content import BuildReport
from edgekit.report.table import COLUMNS, MEMORY, Row, choices, table
from edgekit.report.template import CHART_WIDTH, render, svg
from edgekit.report.verdict import Verdict

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
    judged, rows = _judged(report), table(report)
    headline, further = _headline(report.verdict)
    changed = changes(against, report) if against else ()
    return render(
        "page.html",
        report=report,
        headline=headline,
        further=further,
        columns=COLUMNS,
        rows=rows,
        choices=choices(rows),
        memory=MEMORY,
        charts=_trade_off(report),
        distributions=_distributions(report),
        key=_key(rows),
        blocks=_blocks(report),
        explained=_explained(report.explanation) if report.explanation else [],
        against=against,
        changes=changed,
        changed=summary(changed),
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


def _headline(verdict: Verdict) -> tuple[str, str]:
    """The first sentence of the verdict, and what follows; the doubt has a place of its own."""
    first, stop, further = verdict.sentence.removesuffix(verdict.doubt).rstrip().partition(". ")
    return first + stop.rstrip(), further


def _head_words(head: HeadDrift) -> dict[str, str]:
    """One row of the table of heads."""
    return {
        "head": head.head,
        "measure": f"{head.measure} {head.unit}".rstrip(),
        "value": numbers.small(head.value.value),
        "range": f"{numbers.small(head.value.low)} to {numbers.small(head.value.high)}",
        "further": ", ".join(f"{each.measure} {each.value.value:.4f}" for each in head.further),
    }


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


def _key(rows: Sequence[Row]) -> dict[str, str]:
    """Signs of the formats in the scatter, of those that the table has."""
    from edgekit.report.charts import SHAPE_SIGNS

    there = {row.format for row in rows}
    return {name: SHAPE_SIGNS[i % len(SHAPE_SIGNS)] for i, name in enumerate(FORMATS) if name in there}


def _trade_off(report: BuildReport) -> list[Chart]:
    """The chart of the decision, where drift and latency were measured."""
    from edgekit.report import charts, verdict

    found = verdict.candidates(report.manifest.artifacts, report.drift, report.latency, reference=report.reference)
    if not found:
        return []
    formats = {row.name: row.format for row in report.manifest.artifacts}
    text = "Up and to the left is better. The line joins those that no other artifact beats in both."
    return [Chart("Drift against latency", text, svg(charts.trade_off(found, formats, CHART_WIDTH)))]


def _distributions(report: BuildReport) -> list[Chart]:
    """Every single measurement, as charts."""
    from edgekit.report import charts

    rows = {row.name: row for row in report.manifest.artifacts}
    drawn = []
    if report.latency:
        text = "Every timed call is a tick; the thick one is the median."
        drawn.append(Chart("Latency of every call", text, svg(charts.latency_strips(report.latency, rows))))
    if report.drift:
        text = "Every evaluation image is a dot; the tick is their mean."
        drawn.append(Chart("Drift of every image", text, svg(charts.drift_strips(report.drift, rows))))
    if report.latency:
        drawn.append(Chart("Memory", MEMORY, svg(charts.memory_bars(report.latency, rows))))
    return drawn


def _blocks(report: BuildReport) -> list[Chart]:
    """The drift behind each block of the 8-bit plan: what `edgekit explain` found, else what the build measured."""
    from edgekit.report import explained

    found = report.explanation or report.layers
    if not found or not found.blocks:
        return []
    text = (
        f"SQNR of the residual stream behind each block, of the 8-bit plan on {found.images} evaluation images. "
        "All GEMMs are integer, in the simulator, which computes what a file of this plan computes."
    )
    return [Chart("Drift layer by layer", text, svg(explained.block_lines(found.blocks)))]


def _explained(found: Explanation) -> list[Chart]:
    """The charts of explain.json, where `edgekit explain` left one."""
    from edgekit.report import explained

    drawn = [
        Chart(
            "GEMM by GEMM",
            "Each quantized alone; the shares are of the sum of their noise.",
            svg(explained.gemm_bars(found)),
        )
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
