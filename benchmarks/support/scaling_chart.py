"""The exponents of latency and memory over tokens and batch, and their chart with logarithmic axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

ARTIFACTS = {  # name: label and colour, Okabe and Ito's
    "onnx/fp32": ("FP32", "#0072b2"),
    "onnx/fp32_fused": ("FP32, fused blocks", "#56b4e9"),
    "onnx/w8a8": ("INT8", "#e69f00"),
    "onnx/w8a8_fused": ("INT8, fused blocks", "#d55e00"),
}
AXES = {"tokens": "tokens of one image", "batch": "images of 257 tokens per call"}
COSTS = {"ms": "median latency, ms", "MB": "peak memory above the interpreter's, MB"}
Row = Mapping[str, str]


@dataclass(frozen=True)
class Exponent:
    """Least squares slope of log cost over log work, with its standard error (None below three points)."""

    artifact: str
    cost: str  # "ms" or "MB"
    axis: str  # "tokens" or "batch"
    value: float
    error: float | None
    points: int

    def __str__(self) -> str:
        """`onnx/fp32 ms ~ tokens^1.21 (± 0.05, 6 points)`."""
        doubt = "" if self.error is None else f"± {self.error:.2f}, "
        return f"{self.artifact:<16} {self.cost} ~ {self.axis}^{self.value:.2f} ({doubt}{self.points} points)"


def exponents(rows: Sequence[Row]) -> Iterator[Exponent]:
    """Of every artifact, cost and axis that has two points or more."""
    for axis in AXES:
        for cost in COSTS:
            for artifact in ARTIFACTS:
                mine = [row for row in _along(rows, axis) if row["artifact"] == artifact]
                if len(mine) > 1:
                    work, costs = np.log([float(row[axis]) for row in mine]), np.log([_cost(row, cost) for row in mine])
                    yield Exponent(artifact, cost, axis, *_slope(work, costs), len(mine))


def chart(rows: Sequence[Row]) -> dict[str, Any]:
    """Two by two panels, both axes logarithmic, exponents behind the names: a Vega-Lite specification."""
    fits = {(fit.axis, fit.cost, fit.artifact): fit for fit in exponents(rows)}
    panels = [[_panel(rows, axis, cost, fits) for axis in AXES if _along(rows, axis)] for cost in COSTS]
    drawn: dict[str, Any] = (
        alt.vconcat(*(alt.hconcat(*line).resolve_scale(color="independent") for line in panels))
        .resolve_scale(color="independent")
        .to_dict()
    )
    return drawn


def _panel(rows: Sequence[Row], axis: str, cost: str, fits: Mapping[tuple[str, str, str], Exponent]) -> alt.Chart:
    points = []
    labels = {}
    for row in _along(rows, axis):
        if row["artifact"] in ARTIFACTS:
            label, colour = ARTIFACTS[row["artifact"]]
            fit = fits.get((axis, cost, row["artifact"]))
            name = f"{label}, exponent {fit.value:.2f}" if fit else label
            labels[name] = colour
            points.append({"work": float(row[axis]), "cost": _cost(row, cost), "name": name})
    scale = alt.Scale(type="log", nice=False, padding=12)
    ticks = alt.Axis(values=sorted({point["work"] for point in points}), format="d")
    panel = alt.Chart(alt.InlineData(values=points), width=360, height=230).encode(
        x=alt.X("work:Q", title=AXES[axis], scale=scale, axis=ticks),
        y=alt.Y("cost:Q", title=COSTS[cost], scale=scale, axis=alt.Axis(format="~s", tickCount=5)),
        color=alt.Color(
            "name:N",
            title=None,
            sort=list(labels),
            legend=alt.Legend(orient="top", columns=2, labelLimit=260),
            scale=alt.Scale(domain=list(labels), range=list(labels.values())),
        ),
    )
    return panel.mark_line(strokeWidth=1.5, point=alt.OverlayMarkDef(size=45))


def _along(rows: Sequence[Row], axis: str) -> list[Row]:
    """The points of one panel: a single image of every size, or every batch at the smallest size."""
    if axis == "tokens":
        return [row for row in rows if int(row["batch"]) == 1]
    sizes = {int(row["image_size"]) for row in rows if int(row["batch"]) > 1}
    return [row for row in rows if int(row["image_size"]) in sizes]


def _cost(row: Row, cost: str) -> float:
    return float(row["p50_ms"]) if cost == "ms" else float(row["peak_rss_mb"]) - float(row["base_rss_mb"])


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float | None]:
    """Slope of the regression line and its standard error."""
    if len(x) < 3:
        return float(np.polyfit(x, y, 1)[0]), None
    coefficients, covariance = np.polyfit(x, y, 1, cov="unscaled")
    residual = y - np.polyval(coefficients, x)
    variance = float(residual @ residual) / (len(x) - 2)
    return float(coefficients[0]), float(np.sqrt(covariance[0, 0] * variance))
