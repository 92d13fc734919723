"""The charts of the report as Vega-Lite: each function takes measured numbers and returns one specification.

Colours are CSS variables of the page (`var(--fp32)`), so that light, dark and print need no redrawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from edgekit.artifact import FORMATS
from edgekit.manifest import ArtifactRow
from edgekit.measure.drift import DriftReport
from edgekit.measure.latency import LatencyReport
from edgekit.measure.statistics import MAX_DB
from edgekit.precision import FACTS
from edgekit.report import numbers
from edgekit.report.labels import HEIGHT, Box, place_labels
from edgekit.report.verdict import Candidate, pareto

if TYPE_CHECKING:
    import altair as alt


Spec = dict[str, Any]

_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")
SHAPE_SIGNS = "●■▲◆✚▼◀▶"  # the same in a line of text
_TOP_DB = 60.0  # above this nothing is to be seen any more; FP16 sits just below
_BANDS = ((17.0, "0.99"), (21.0, "0.995"), (27.0, "0.999"))  # dB of uncorrelated error and its cosine
ROW = 26  # pixels per artifact in the strips
_HEIGHT = 350  # pixels of the scatter
_MARGIN = 3  # pixels between a leader line and its text
_LABEL_SIZE, _CHARACTER = 11, 6.2  # pixels of a label's letters: height, and width on average of the page's sans-serifs


def trade_off(found: Sequence[Candidate], formats: Mapping[str, str], width: int) -> Spec:
    """Latency against SQNR, the Pareto front as a line; labels are placed for a plot `width` pixels wide."""
    import altair as alt

    points = [_point(c, formats[c.name]) for c in found]
    right = 1.06 * max(c.p50_ms for c in found)
    lowest = min(10.0, min(point["db"] for point in points) - 3)
    x = alt.X(
        "ms:Q",
        title="latency, p50 in ms (left is faster)",
        scale=alt.Scale(domain=[0, right], nice=False),
        axis=alt.Axis(tickCount=10),
    )
    y = alt.Y(
        "db:Q",
        title="SQNR in dB (up is truer)",
        scale=alt.Scale(domain=[lowest, _TOP_DB], nice=False),
        axis=alt.Axis(labelExpr=f"datum.value >= {_TOP_DB} ? '{_TOP_DB:.0f}+' : datum.label", tickCount=6),
    )
    bands = [{"db": db, "text": f"cosine {cosine}"} for db, cosine in _BANDS if db > lowest]
    front = {c.name for c in pareto(found)}
    line = [point for point in points if point["name"] in front]  # fastest first
    labels, leaders = _labels(points, front, (right, lowest), width, [db for db, _ in _BANDS if db > lowest])
    layers = [
        alt.Chart(data(bands)).mark_rule(color="var(--rule)", strokeDash=[2, 3], aria=False).encode(y=y),
        alt.Chart(data(bands))
        .mark_text(align="right", baseline="bottom", dx=-2, dy=-2, color="var(--muted)", fontSize=10, aria=False)
        .encode(y=y, x=alt.value("width"), text="text:N"),
        alt.Chart(data(line)).mark_line(color="var(--muted)", strokeWidth=1.2, aria=False).encode(x=x, y=y),
        alt.Chart(data(leaders))
        .mark_line(color="var(--muted)", strokeWidth=0.7, opacity=0.7, aria=False)
        .encode(x=x, y=y, detail="name:N"),
        alt.Chart(data(points))
        .mark_point(filled=True, size=110, opacity=1, stroke="var(--paper)", strokeWidth=1.5)
        .encode(x=x, y=y, color=_colour(), shape=_shape(), description="tip:N"),
        alt.Chart(data(labels))
        .mark_text(align="left", baseline="middle", color="var(--ink)", fontSize=_LABEL_SIZE, aria=False)
        .encode(x=x, y=y, text="name:N"),
    ]
    return finish(alt.layer(*layers), _HEIGHT, "Latency against feature SQNR of every measured artifact")


def _point(candidate: Candidate, format_: str) -> dict[str, Any]:
    """One artifact in the scatter; `tip` is what pointing at it tells."""
    sqnr = MAX_DB if candidate.sqnr_db is None else candidate.sqnr_db
    facts = (
        numbers.milliseconds(candidate.p50_ms),
        numbers.decibels(sqnr),
        f"cosine {numbers.cosine(1 - candidate.drop)}",
        numbers.megabytes(candidate.size_mb),
    )
    return {
        "name": candidate.name,
        "precision": candidate.precision,
        "format": format_,
        "ms": candidate.p50_ms,
        "db": min(_TOP_DB, sqnr),
        "tip": f"{candidate.name}: {', '.join(facts)}",
    }


def _labels(
    points: Sequence[Mapping[str, Any]], front: Set[str], ends: tuple[float, float], width: int, bands: Sequence[float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Labels (their left ends) and the ends of their leader lines, those of the front first, in units of the axes.

    Args:
        points: from `_point`, fastest first.
        front: names that are never left without a label if there is room.
        ends: of the axes, right and bottom.
        width: of the plot in pixels.
        bands: heights whose remarks at the right stay free, in dB.
    """
    right, lowest = ends
    across, down = width / right, _HEIGHT / (_TOP_DB - lowest)  # pixels per ms and per dB
    order = sorted(points, key=lambda point: point["name"] not in front)
    spots = [(point["ms"] * across, (_TOP_DB - point["db"]) * down) for point in order]
    remarks = [Box(width - 66, (_TOP_DB - db) * down - HEIGHT, width, (_TOP_DB - db) * down) for db in bands]
    wide = [_CHARACTER * len(point["name"]) + 2 * _MARGIN for point in order]
    line = list(pairwise(sorted(spot for spot, point in zip(spots, order, strict=True) if point["name"] in front)))
    labels, leaders = [], []
    for point, label in zip(order, place_labels(spots, wide, (width, _HEIGHT), remarks, line), strict=True):
        if label is None:
            continue  # the table and the tip tell its name
        middle = (label.box.top + label.box.bottom) / 2
        labels.append({"name": point["name"], "ms": (label.box.left + _MARGIN) / across, "db": _TOP_DB - middle / down})
        leaders += [{"name": point["name"], "ms": x / across, "db": _TOP_DB - y / down} for x, y in label.leader or ()]
    return labels, leaders


def latency_strips(reports: Mapping[str, LatencyReport], rows: Mapping[str, ArtifactRow]) -> Spec:
    """Every timed inference as a tick, the median as a bar through them; one row per artifact, fastest first."""
    import altair as alt

    order = sorted(reports, key=lambda name: reports[name].p50_ms)
    ticks = [
        {"name": name, "precision": rows[name].precision, "ms": t}
        for name in order
        for turn in reports[name].times_ms
        for t in turn
    ]
    medians = [
        {
            "name": name,
            "precision": rows[name].precision,
            "ms": reports[name].p50_ms,
            "tip": f"{name}: p50 {numbers.milliseconds(reports[name].p50_ms)}, "
            f"p90 {numbers.milliseconds(reports[name].p90_ms)}, fastest {numbers.milliseconds(reports[name].min_ms)}",
        }
        for name in order
    ]
    x = alt.X("ms:Q", title="ms per call", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=10))
    y = alt.Y("name:N", sort=order, title=None, axis=row_axis())
    chart = alt.layer(
        alt.Chart(data(ticks))
        .mark_tick(thickness=1, opacity=0.45, height=ROW * 0.5, aria=False)
        .encode(x=x, y=y, color=_colour()),
        alt.Chart(data(medians))
        .mark_tick(thickness=3, opacity=1, height=ROW * 0.8)
        .encode(x=x, y=y, color=_colour(), description="tip:N"),
    )
    return finish(chart, ROW * len(order), "Distribution of latencies of every artifact")


def memory_bars(reports: Mapping[str, LatencyReport], rows: Mapping[str, ArtifactRow]) -> Spec:
    """Peak RSS of each artifact's own process, least first."""
    import altair as alt

    used = {name: report.peak_rss_mb for name, report in reports.items()}
    bars = [
        {"name": name, "precision": rows[name].precision, "mb": used[name], "text": numbers.megabytes(used[name])}
        for name in sorted(used, key=lambda name: used[name])
    ]
    scale = alt.Scale(domain=[0, 1.12 * max(used.values())], nice=False)
    base = alt.Chart(data(bars)).encode(
        x=alt.X("mb:Q", title="peak RSS in MB", scale=scale, axis=alt.Axis(tickCount=8)),
        y=alt.Y("name:N", sort=None, title=None, axis=row_axis()),
    )
    chart = base.mark_bar(height=9, cornerRadiusEnd=2, aria=False).encode(color=_colour())
    return finish(
        chart + base.mark_text(align="left", dx=6, color="var(--ink)", aria=False).encode(text="text:N"),
        ROW * len(bars),
        "Peak RSS of every artifact",
    )


def drift_strips(reports: Mapping[str, DriftReport], rows: Mapping[str, ArtifactRow]) -> Spec:
    """Every image as a dot at its SQNR, one row per artifact, most faithful first; pointing names the image."""
    import altair as alt

    order = sorted(reports, key=lambda name: -reports[name].sqnr_db.value)
    dots = [
        {
            "name": name,
            "precision": rows[name].precision,
            "db": min(image.sqnr_db, _TOP_DB),
            "tip": f"{image.name} by {name}: {numbers.decibels(image.sqnr_db)}, "
            f"CLS cosine {numbers.cosine(image.cls_cosine)}",
        }
        for name in order
        for image in reports[name].images
    ]
    means = [{"name": n, "precision": rows[n].precision, "db": min(reports[n].sqnr_db.value, _TOP_DB)} for n in order]
    worst = min(image.sqnr_db for report in reports.values() for image in report.images)
    x = alt.X(
        "db:Q",
        title="SQNR in dB (right is truer)",
        scale=alt.Scale(domain=[worst - 2, _TOP_DB], nice=False, padding=6),
        axis=alt.Axis(tickCount=8, labelExpr=f"datum.value >= {_TOP_DB} ? '{_TOP_DB:.0f}+' : datum.label"),
    )
    y = alt.Y("name:N", sort=order, title=None, axis=row_axis())
    chart = alt.layer(
        alt.Chart(data(dots)).mark_circle(size=46, opacity=0.5).encode(x=x, y=y, color=_colour(), description="tip:N"),
        alt.Chart(data(means))
        .mark_tick(thickness=2, height=ROW * 0.8, color="var(--ink)", aria=False)
        .encode(x=x, y=y),
    )
    return finish(chart, ROW * len(order), "SQNR of every image under every artifact")


def data(values: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows that stay inside the specification."""
    import altair as alt

    return alt.InlineData(values=[dict(value) for value in values])


def _colour() -> alt.Color:
    import altair as alt

    scale = alt.Scale(domain=list(FACTS), range=[f"var(--{name})" for name in FACTS])
    return alt.Color("precision:N", scale=scale, legend=None)


def _shape() -> alt.Shape:
    import altair as alt

    shapes = [_SHAPES[place % len(_SHAPES)] for place in range(len(FORMATS))]
    return alt.Shape("format:N", scale=alt.Scale(domain=list(FORMATS), range=shapes), legend=None)


def row_axis() -> alt.Axis:
    """One name per row, without a line."""
    import altair as alt

    return alt.Axis(domain=False, ticks=False, labelPadding=10, labelLimit=180, minExtent=150, labelColor="var(--ink)")


def finish(chart: alt.Chart | alt.LayerChart, height: int, description: str) -> Spec:
    """The specification as a dictionary, as wide as the page lets it be and without data of its own beside it."""
    chart = chart.properties(width="container", height=height, description=description)
    spec: Spec = chart.to_dict(validate=True)
    spec.pop("config", None)
    return spec
