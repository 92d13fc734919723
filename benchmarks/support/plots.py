"""Draws the matrix of every host: what each way to run a model costs and loses, a panel per image size.

python -m benchmarks.support.plots      # writes docs/benchmarks/charts/matrix-<host>-<model>-<threads>.svg
"""

from __future__ import annotations

from pathlib import Path

import altair as alt
import vl_convert

from benchmarks.support import matrix

COLOURS = {  # Okabe and Ito's, to be told apart without red-green vision
    "edgekit fused": "#d55e00",
    "edgekit": "#e69f00",
    "ONNX Runtime": "#0072b2",
    "NNCF": "#56b4e9",
    "AI Edge Quantizer": "#009e73",
    "PyTorch": "#7f7f7f",
    "edgekit, float": "#b0b0b0",
}
TOP_DB = 60.0  # above this nothing is to be seen any more


def chart(rows: list[matrix.Row]) -> alt.Chart:
    """Latency against SQNR of the rows of one model and number of threads."""
    points = [
        {
            "artifact": row.artifact,
            "ms": row.p50_ms,
            "dB": min(row.sqnr_db, TOP_DB),
            "size": f"{row.image_size} px",
            "made by": _maker(row),
        }
        for row in rows
        if row.p50_ms is not None and row.sqnr_db is not None
    ]
    base = alt.Chart(alt.InlineData(values=points)).encode(
        x=alt.X("ms:Q", title="median latency, ms", scale=alt.Scale(type="log", nice=False, padding=24)),
        y=alt.Y("dB:Q", title=f"SQNR in dB ({TOP_DB:.0f} and more at the top)", scale=alt.Scale(domain=[0, TOP_DB])),
    )
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        color=alt.Color("made by:N", title=None, scale=alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))),
        shape=alt.Shape("made by:N", title=None, scale=alt.Scale(domain=list(COLOURS))),
    )
    sizes = list(dict.fromkeys(point["size"] for point in points))
    return dots.properties(width=300, height=260).facet(facet=alt.Facet("size:N", title=None, sort=sizes), columns=3)


def _maker(row: matrix.Row) -> str:
    if row.engine != "edgekit":
        return next(name for name in COLOURS if row.engine.startswith(name) or name == "PyTorch")
    if row.precision in ("fp32", "fp16"):
        return "edgekit, float"
    return "edgekit fused" if "fused" in row.artifact else "edgekit"


def drawings(path: Path) -> list[Path]:
    """Draw one host's matrix; returns the files written, one per model and number of threads."""
    written = []
    rows = matrix.read(path)
    for model, threads in sorted({(row.model, row.threads) for row in rows}):
        part = [row for row in rows if (row.model, row.threads) == (model, threads)]
        svg = vl_convert.vegalite_to_svg(chart(part).to_dict())
        target = matrix.CHARTS / f"{path.stem}-{Path(model).stem}-{threads}.svg"
        target.write_text(svg, encoding="utf-8")
        written.append(target)
    return written


if __name__ == "__main__":
    for csv in matrix.all_hosts():
        print(*drawings(csv), sep="\n")
