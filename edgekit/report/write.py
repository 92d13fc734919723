"""The one writer: a BuildReport becomes report.json and a report.html that needs no network."""

from __future__ import annotations

from pathlib import Path

from edgekit.files import atomic_path
from edgekit.quantization.explanation import Explanation
from edgekit.report.changes import refuse_incomparable
from edgekit.report.content import BuildReport
from edgekit.report.verdict import Verdict


def write_report(report: BuildReport, out: Path, *, against: BuildReport | None = None) -> Path:
    """Write `out/report.json` and `out/report.html` atomically; returns the path of the page.

    Args:
        report: what to show.
        out: the build folder.
        against: of an earlier build; the page, not the data, then has a section of what changed since.

    Raises:
        BackendMissing: jinja2, altair or vl-convert is not installed (report.json is written all the same).
    """
    from edgekit.report.page import render_page

    report.write_json(out)
    page = render_page(report, against)
    path = out / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def redraw(out: Path, *, against: Path | None = None) -> tuple[Path, Verdict]:
    """Draw a build folder's report again, with its explain.json if there is one; returns the page and the verdict.

    Args:
        out: the build folder.
        against: an earlier build folder.

    Raises:
        DataError: a report is missing or damaged, or the earlier build is of another image size or other images.
        BackendMissing: as `write_report`.
    """
    report = BuildReport.read_json(out / "report.json")
    earlier = BuildReport.read_json(against / "report.json") if against else None
    if earlier:
        refuse_incomparable(earlier, report)  # before anything is written
    report = report.model_copy(update={"explanation": Explanation.read(out)})
    return write_report(report, out, against=earlier), report.verdict
