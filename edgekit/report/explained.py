"""Charts of the sources of drift, as Vega-Lite: which block, which GEMM, which step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.quantization.explanation import BlockDrift, Explanation
from edgekit.report import numbers
from edgekit.report.charts import ROW, Spec, data, finish, row_axis

_KINDS = {"class_db": "class token", "register_db": "registers", "patch_db": "patches"}
_COLOURS = {"class token": "var(--fp16)", "registers": "var(--w4a8)", "patches": "var(--w8a8)"}
_LISTED = 12  # GEMMs


def block_lines(blocks: Sequence[BlockDrift]) -> Spec:
    """SQNR of the residual stream behind each block, a labelled line per kind of token."""
    import altair as alt

    points = [
        {
            "kind": kind,
            "block": block.block,
            "db": value,
            "tip": f"{kind} behind block {block.block}: {numbers.decibels(value)}",
        }
        for key, kind in _KINDS.items()
        for block in blocks
        if (value := getattr(block, key)) is not None
    ]
    last = blocks[-1].block
    colour = alt.Color("kind:N", legend=None, scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())))
    x = alt.X(
        "block:Q",
        title="behind block",
        scale=alt.Scale(domain=[0, last + 1.5], nice=False),
        axis=alt.Axis(values=list(range(last + 1)), format="d", grid=False),
    )
    y = alt.Y("db:Q", title="SQNR in dB", scale=alt.Scale(zero=False, padding=10))
    lines = alt.Chart(data(points)).encode(x=x, y=y, color=colour)
    ends = alt.Chart(data(_apart([point for point in points if point["block"] == last], points)))
    dots = lines.mark_circle(size=42, opacity=1).encode(description="tip:N")
    names = ends.mark_text(align="left", dx=9, color="var(--ink)", aria=False).encode(x=x, y="at:Q", text="kind:N")
    return finish(lines.mark_line(strokeWidth=1.8, aria=False) + dots + names, 170, "SQNR behind each block")


def gemm_bars(found: Explanation) -> Spec:
    """The GEMMs that bring most of the noise, each quantized alone: its share of the sum over all."""

    bars = [
        {"name": gemm.name, "share": 100 * gemm.noise_share, "text": f"{100 * gemm.noise_share:.0f} %"}
        for gemm in found.gemms[:_LISTED]
    ]
    return _bars("share of the noise, %", bars, "Share of the noise of each GEMM")


def step_bars(found: Explanation) -> Spec:
    """Losses of the plan in dB without each step of the recipe."""

    steps = found.steps or {}
    base = steps["as it is"]["sqnr_db"]
    bars = [
        {"name": name, "share": base - step["sqnr_db"], "text": f"{base - step['sqnr_db']:+.1f} dB".replace("-", "−")}
        for name, step in steps.items()
        if name != "as it is"
    ]
    return _bars("dB of SQNR lost", bars, "What is lost without each step")


def _apart(ends: list[dict[str, Any]], points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ends of the lines with a height `at` for each name, so that no two overlap."""
    values = [point["db"] for point in points]
    gap = 0.08 * (max(values) - min(values))
    placed: list[dict[str, Any]] = []
    for end in sorted(ends, key=lambda point: point["db"]):
        lowest = placed[-1]["at"] + gap if placed else end["db"]
        placed.append({**end, "at": max(end["db"], lowest)})
    return placed


def _bars(title: str, bars: list[dict[str, Any]], description: str) -> Spec:
    """Bars of `share`, the `text` of each behind its end, or behind zero where it is negative."""
    import altair as alt

    ends = [max(bar["share"], 0) for bar in bars]
    scale = alt.Scale(domain=[min(0, *(bar["share"] for bar in bars)), 1.12 * max(ends)], nice=False)
    bars = [{**bar, "end": end} for bar, end in zip(bars, ends, strict=True)]
    axis = row_axis()
    axis.labelLimit = axis.minExtent = 280
    base = alt.Chart(data(bars)).encode(y=alt.Y("name:N", sort=None, title=None, axis=axis))
    chart = base.mark_bar(color="var(--w8a8)", height=9, cornerRadiusEnd=2, aria=False).encode(
        x=alt.X("share:Q", title=title, scale=scale, axis=alt.Axis(tickCount=8))
    )
    words = base.mark_text(align="left", dx=6, color="var(--ink)", aria=False).encode(x="end:Q", text="text:N")
    return finish(chart + words, ROW * len(bars), description)
