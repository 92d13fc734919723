"""The page a build is judged by: one self-contained report.html, and the same data as report.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["BuildReport", "Command", "ImagePanel", "Verdict", "redraw", "write_report"]

if TYPE_CHECKING:
    from edgekit.report.content import BuildReport, Command, ImagePanel
    from edgekit.report.verdict import Verdict
    from edgekit.report.write import redraw, write_report

_HOMES = {
    "BuildReport": "edgekit.report.content",
    "Command": "edgekit.report.content",
    "ImagePanel": "edgekit.report.content",
    "Verdict": "edgekit.report.verdict",
    "redraw": "edgekit.report.write",
    "write_report": "edgekit.report.write",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use: the template engine and the chart library are an extra."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit.report' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
