"""The one writer: a BuildReport becomes report.json and a report.html that needs no network."""

from __future__ import annotations

from pathlib import Path

from edgekit.artifact import atomic_path
from edgekit.report.content import BuildReport


def write_report(report: BuildReport, out: Path) -> Path:
    """Write `out/report.json` and `out/report.html` atomically; returns the path of the page.

    Raises:
        BackendMissing: jinja2, altair or vl-convert is not installed (report.json is written all the same).
    """
    from edgekit.report.page import render_page

    report.write_json(out)
    page = render_page(report)
    path = out / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
