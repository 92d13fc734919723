"""The charts of the report as Vega-Lite: each function takes measured numbers and returns one specification.

Colours are CSS variables of the page (`var(--fp32)`), so that light, dark and print need no redrawing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgekit.artifact import FORMATS, ArtifactRow
from edgekit.measure.drift import DriftReport
from edgekit.measure.latency import LatencyReport
from edgekit.measure.statistics import MAX_DB
from edgekit.precision import FACTS
from edgekit.report import numbers
from edgekit.report.verdict import Candidate, pareto

if TYPE_CHECKING:
    import altair as alt


Spec = dict[str, Any]
Place = Literal["right", "left", "above", "below"]

_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")
_TOP_DB = 60.0  # above this nothing is to be seen any more; FP16 sits just below
_BANDS = ((17.0, "0.99"), (21.0, "0.995"), (27.0, "0.999"))  # dB of uncorrelated error and its cosine
ROW = 26  # pixels per artifact in the strips


def trade_off(found: Sequence[Candidate], formats: Mapping[str, str], width: int) -> Spec:
    """Latency against SQNR, the Pareto front as a line; labels are placed for a chart `width` pixels wide."""
    import altair as alt

    height = 340
    points: list[dict[str, Any]] = [
        {
            "name": c.name,
            "precision": c.precision,
            "format": formats[c.name],
            "ms": c.p50_ms,
            "db": min(_TOP_DB, MAX_DB if c.sqnr_db is None else c.sqnr_db),
            "p50": numbers.milliseconds(c.p50_ms),
            "SQNR": numbers.decibels(MAX_DB if c.sqnr_db is None else c.sqnr_db),
            "size": numbers.megabytes(c.size_mb),
            "cosine": numbers.cosine(1 - c.drop),
        }
        for c in found
    ]
    right = 1.08 * max(c.p50_ms for c in found)
    lowest = min(10.0, min(point["db"] for point in points) - 3)
    top = sorted((p for p in points if p["db"] >= _TOP_DB), key=lambda p: p["ms"])  # too close together for a name each
    if len(top) > 1:
        top[0]["label"] = f"{top[0]['name']} and {len(top) - 1} more"
    for point in points:
        point.setdefault("label", "" if point in top[1:] else point["name"])
    labels = _place_labels(points, (0, right), (lowest, _TOP_DB), (width - 60, height - 50))
    x = alt.X("ms:Q", title="latency, p50 in ms (left is faster)", scale=alt.Scale(domain=[0, right], nice=False))
    y = alt.Y(
        "db:Q",
        title="SQNR in dB (up is truer)",
        scale=alt.Scale(domain=[lowest, _TOP_DB], nice=False),
        axis=alt.Axis(labelExpr=f"datum.value >= {_TOP_DB} ? '{_TOP_DB:.0f}+' : datum.label", tickCount=6),
    )
    front = {c.name for c in pareto(found)}
    line = sorted((p for p in points if p["name"] in front), key=lambda p: p["ms"])
    band = alt.Chart(data([{"db": db, "text": f"cosine {cosine}"} for db, cosine in _BANDS if db > lowest]))
    plot = alt.Chart(data(points))
    layers = [
        band.mark_rule(color="var(--rule)", strokeDash=[2, 3]).encode(y=y),
        band.mark_text(align="right", baseline="bottom", dx=-2, dy=-2, color="var(--muted)", fontSize=10).encode(
            y=y, x=alt.value("width"), text="text:N"
        ),
        alt.Chart(data(line)).mark_line(color="var(--muted)", strokeWidth=1.2).encode(x=x, y=y),
        plot.mark_point(filled=True, size=110, opacity=1, stroke="var(--paper)", strokeWidth=1.5).encode(
            x=x, y=y, color=_colour(), shape=_shape(), tooltip=["name:N", "p50:N", "SQNR:N", "cosine:N", "size:N"]
        ),
    ]
    offsets: dict[Place, dict[str, Any]] = {
        "right": {"align": "left", "dx": 10, "dy": 0},
        "left": {"align": "right", "dx": -10, "dy": 0},
        "above": {"align": "center", "dx": 0, "dy": -14},
        "below": {"align": "center", "dx": 0, "dy": 14},
    }
    for place, offset in offsets.items():
        mine = [p for p, where in zip(points, labels, strict=True) if where == place]
        if mine:
            layers.append(
                alt.Chart(data(mine))
                .mark_text(baseline="middle", color="var(--ink)", **offset)
                .encode(x=x, y=y, text="label:N")
            )
    return finish(alt.layer(*layers), height, "Latency against feature SQNR of every measured artifact")


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
            "p50": numbers.milliseconds(reports[name].p50_ms),
            "p90": numbers.milliseconds(reports[name].p90_ms),
            "p99": numbers.milliseconds(reports[name].p99_ms),
            "fastest": numbers.milliseconds(reports[name].min_ms),
        }
        for name in order
    ]
    x = alt.X("ms:Q", title="ms per call", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=10))
    y = alt.Y("name:N", sort=order, title=None, axis=row_axis())
    chart = alt.layer(
        alt.Chart(data(ticks)).mark_tick(thickness=1, opacity=0.45, height=ROW * 0.5).encode(x=x, y=y, color=_colour()),
        alt.Chart(data(medians))
        .mark_tick(thickness=3, opacity=1, height=ROW * 0.8)
        .encode(x=x, y=y, color=_colour(), tooltip=["name:N", "p50:N", "p90:N", "p99:N", "fastest:N"]),
    )
    return finish(chart, ROW * len(order), "Distribution of latencies of every artifact")


def memory_bars(reports: Mapping[str, LatencyReport], rows: Mapping[str, ArtifactRow]) -> Spec:
    """Peak memory of each artifact's own process above that of the interpreter, least first."""
    import altair as alt

    used = {name: report.peak_rss_mb - report.base_rss_mb for name, report in reports.items()}
    bars = [
        {"name": name, "precision": rows[name].precision, "mb": used[name], "text": numbers.megabytes(used[name])}
        for name in sorted(used, key=lambda name: used[name])
    ]
    scale = alt.Scale(domain=[0, 1.12 * max(used.values())], nice=False)
    base = alt.Chart(data(bars)).encode(
        x=alt.X("mb:Q", title="MB", scale=scale, axis=alt.Axis(tickCount=8)),
        y=alt.Y("name:N", sort=None, title=None, axis=row_axis()),
    )
    chart = base.mark_bar(height=9, cornerRadiusEnd=2).encode(color=_colour())
    return finish(
        chart + base.mark_text(align="left", dx=6, color="var(--ink)").encode(text="text:N"),
        ROW * len(bars),
        "Memory of every artifact",
    )


def drift_strips(
    reports: Mapping[str, DriftReport], rows: Mapping[str, ArtifactRow], thumbnails: Mapping[str, str]
) -> Spec:
    """Every image as a dot at its SQNR, one row per artifact, most faithful first; pointing shows the image."""
    import altair as alt

    order = sorted(reports, key=lambda name: -reports[name].sqnr_db.value)
    dots = [
        {
            "name": name,
            "precision": rows[name].precision,
            "db": min(image.sqnr_db, _TOP_DB),
            "photo": image.name,
            "SQNR": numbers.decibels(image.sqnr_db),
            "class cosine": numbers.cosine(image.cls_cosine),
            "image": thumbnails.get(image.name, ""),
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
    tooltip = ["image:N", "photo:N", "SQNR:N", "class cosine:N"] if thumbnails else ["photo:N", "SQNR:N"]
    chart = alt.layer(
        alt.Chart(data(dots)).mark_circle(size=46, opacity=0.5).encode(x=x, y=y, color=_colour(), tooltip=tooltip),
        alt.Chart(data(means)).mark_tick(thickness=2, height=ROW * 0.8, color="var(--ink)").encode(x=x, y=y),
    )
    return finish(chart, ROW * len(order), "SQNR of every image under every artifact")


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def _place_labels(
    points: Sequence[Mapping[str, Any]],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    size: tuple[int, int],
) -> list[Place]:
    """Greedy: each label, in turn, takes the side of its point where it covers least of points, labels and border."""
    spots = [
        (
            (p["ms"] - x_range[0]) / (x_range[1] - x_range[0]) * size[0],
            (1 - (p["db"] - y_range[0]) / (y_range[1] - y_range[0])) * size[1],
        )
        for p in points
    ]
    taken = [_Box(x - 8, y - 8, x + 8, y + 8) for x, y in spots]
    places: list[Place] = []
    for (x, y), point in zip(spots, points, strict=True):
        wide = 6.4 * len(point["label"])
        options: dict[Place, _Box] = {
            "right": _Box(x + 10, y - 8, x + 10 + wide, y + 8),
            "left": _Box(x - 10 - wide, y - 8, x - 10, y + 8),
            "below": _Box(x - wide / 2, y + 8, x + wide / 2, y + 24),
            "above": _Box(x - wide / 2, y - 24, x + wide / 2, y - 8),
        }
        costs = {
            place: sum(box.overlap(other) for other in taken)
            + 50 * (max(0, -box.left) + max(0, box.right - size[0]) + max(0, -box.top - 12))
            for place, box in options.items()
        }
        best = min(costs, key=lambda place: costs[place])
        places.append(best)
        taken.append(options[best])
    return places


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
