"""The parts of every page of edgekit: a template, style sheet and script, numbers as text, and charts as drawings."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from edgekit.errors import BackendMissing
from edgekit.precision import FACTS
from edgekit.report import numbers

CHART_WIDTH = 860  # pixels
_SECTION = re.compile(r'<section id="([^"]+)"[^>]*>\s*<h2>([^<]+)')
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

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"anchor": anchor, "headings": lambda html: [(a, Markup(t)) for a, t in headings(html)]}
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    texts = {  # our own, not to be escaped
        "style": Markup(palette() + (_HERE / "page.css").read_text(encoding="utf-8")),
        "script": Markup(script),
        "script_digest": Markup(digest(script)),
    }
    return environment.get_template(name).render(n=numbers, **texts, **values)


def digest(script: str) -> str:
    """SHA-256 of a script as a content security policy names it: no other script runs in the page."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


def anchor(title: str) -> str:
    """Name of a section in the page's address: `drift-against-latency`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def headings(html: str) -> list[tuple[str, str]]:
    """Anchor and title (as HTML) of every section that has both, for the contents."""
    return [(name, title.strip()) for name, title in _SECTION.findall(html)]


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
