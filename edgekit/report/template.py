"""The parts of every page of edgekit: a template, the style sheet, numbers as text, and charts as drawings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.errors import BackendMissing
from edgekit.precision import FACTS
from edgekit.report import numbers

CHART_WIDTH = 860  # pixels
_HERE = Path(__file__).parent


def render(name: str, **values: object) -> str:
    """A template of this folder with `values`, the style sheet and the number formats filled in.

    Raises:
        BackendMissing: the report extra is not installed.
    """
    absent = [package for package in ("jinja2", "altair", "vl_convert") if find_spec(package) is None]
    if absent:
        raise BackendMissing(f"{name} needs {', '.join(absent)}", fix="pip install 'edgekit[report]'")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    template = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)
    style = Markup(palette() + (_HERE / "page.css").read_text(encoding="utf-8"))  # our own text, not to be escaped
    return template.render(n=numbers, style=style, **values)


def palette() -> str:
    """The colour of each precision as a variable of the page, `var(--fp32)`, on light and on dark paper."""
    light, dark = (
        " ".join(f"--{precision}: {facts.colours[paper]};" for precision, facts in FACTS.items()) for paper in (0, 1)
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def svg(spec: dict[str, Any]) -> str:
    """A Vega-Lite specification as a drawing whose colours are the page's."""
    import vl_convert

    axis = {
        "domainColor": "var(--rule)",
        "gridColor": "var(--rule)",
        "tickColor": "var(--rule)",
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
    }
    config = {"background": None, "view": {"stroke": None}, "axis": axis}
    drawing: str = vl_convert.vegalite_to_svg({**spec, "width": CHART_WIDTH, "config": config})
    return drawing
