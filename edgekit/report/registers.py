"""The page that shows two checkpoints' norms, attention, parts and objects beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from edgekit.files import atomic_path
from edgekit.images.preprocess import to_pixels
from edgekit.report.charts import Spec, data, finish
from edgekit.report.foreground import ForegroundColours
from edgekit.report.pictures import data_uri, enlarged, heat_tile, strip
from edgekit.report.template import render, svg

if TYPE_CHECKING:
    from edgekit.images.sets import ImageSet
    from edgekit.measure.registers.comparison import Looked, RegistersReport

_COLOURS = ("var(--fp16)", "var(--w8a8)")
_BOX = (217, 118, 26)
_BINS = 60
COLUMNS = ("object", "norms", "attention", "parts")


def write_registers(report: RegistersReport, looked: Sequence[Looked], images: ImageSet, out: Path, show: int) -> Path:
    """Write `registers.html` and `registers.json` into `out`; returns the page.

    Raises:
        BackendMissing: the report extra is not installed.
    """
    out.mkdir(parents=True, exist_ok=True)
    photos = to_pixels(images.pixel_values[:show], images.preprocess)
    sheets = [_sheets(each, photos) for each in looked]
    names = [each.name for each in looked]
    page = render(
        "registers.html",
        report=report,
        sides=(report.a, report.b),
        columns=COLUMNS,
        histogram=svg(histogram(names, [each.inside.norms for each in looked])),
        pictures=[
            (images.paths[i], [(each.name, sheet[i]) for each, sheet in zip(looked, sheets, strict=True)])
            for i in range(len(photos))
        ],
    )
    for name, text in (("registers.html", page), ("registers.json", report.model_dump_json(indent=2) + "\n")):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / "registers.html"


def histogram(names: Sequence[str], norms: Sequence[np.ndarray]) -> Spec:
    """Share of patches over norm, in units of each model's median, both axes logarithmic."""
    import altair as alt

    ratios = [values.ravel() / max(float(np.median(values)), 1e-12) for values in norms]
    low, high = min(ratio.min() for ratio in ratios), max(ratio.max() for ratio in ratios)
    edges = np.geomspace(max(low, 1e-3), high * 1.001, _BINS + 1)
    bars = [
        {"model": name, "norm": float(np.sqrt(left * right)), "share": 100 * count / len(ratio)}
        for name, ratio in zip(names, ratios, strict=True)
        for left, right, count in zip(edges[:-1], edges[1:], np.histogram(ratio, edges)[0], strict=True)
        if count
    ]
    chart = (
        alt.Chart(data(bars))
        .mark_circle(size=36, opacity=0.9)
        .encode(
            x=alt.X(
                "norm:Q", title="norm over the model's median", scale=alt.Scale(type="log", nice=False, padding=10)
            ),
            y=alt.Y("share:Q", title="patches, %", scale=alt.Scale(type="log", padding=10)),
            color=alt.Color(
                "model:N",
                scale=alt.Scale(domain=list(names), range=list(_COLOURS)),
                legend=alt.Legend(title=None, orient="top", labelColor="var(--ink)", labelLimit=400),
            ),
        )
    )
    return finish(chart, 220, "Norms of patch tokens before the final norm")


def _sheets(looked: Looked, photos: np.ndarray) -> list[str]:
    """One strip per photo: object, norms, attention, parts."""
    inside, grid = looked.inside, looked.inside.features.grid
    colours = ForegroundColours.fit(inside.features.patches, grid)
    low, high = np.quantile(inside.norms, 0.01), inside.norms.max()
    sheets = []
    for i, photo in enumerate(photos):
        weights = inside.attention[i].mean(axis=0)
        tiles = [
            _boxed(photo, looked.boxes[i]),
            heat_tile(photo, (inside.norms[i] - low) / max(high - low, 1e-12), grid),
            heat_tile(photo, weights / weights.max(), grid),
            enlarged(colours.paint(inside.features.patches[i], grid), photo),
        ]
        sheets.append(data_uri(strip(tiles)))
    return sheets


def _boxed(photo: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    picture = Image.fromarray(photo)
    left, top, right, bottom = box
    ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), outline=_BOX, width=4)
    return np.asarray(picture)
