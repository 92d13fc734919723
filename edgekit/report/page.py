"""Turns a BuildReport into one HTML page: the template, its numbers as text, and the charts' specifications."""

from __future__ import annotations

from edgekit.report.content import BuildReport


def render_page(report: BuildReport) -> str:
    """The whole page as text. Raises BackendMissing when the report extra is not installed."""
    raise NotImplementedError
