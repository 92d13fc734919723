"""What a build looks like in a terminal: a progress line while it runs, a table when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from edgekit.artifact import ArtifactRow
from edgekit.pipeline.watch import Fate

_COLOURS = {"ok": "green", "failed": "red", "not here": "yellow"}


class Live:
    """A Watcher that draws: one moving line, and a permanent one for every finished row. Quiet without a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(),
            TimeElapsedColumn(), console=console, transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        """Move the line."""
        self._progress.update(self._task, description=name, completed=done, total=total or None)

    def finished(self, row: ArtifactRow, fate: Fate) -> None:
        """Leave a line behind."""
        self._console.print(Text.assemble(
            (f"{row.status:>8}  ", _COLOURS[row.status]), f"{row.name:<22}",
            f"{row.size_mb:8.1f} MB" if row.size_mb is not None else "",
            "  kept" if fate == "kept" else "", f"  {row.reason}" if row.reason else "",
        ), soft_wrap=True)  # fmt: skip

    def note(self, text: str) -> None:
        """A grey line."""
        self._console.print(Text(f"          {text}", "dim"), soft_wrap=True)


def build_table(rows: Sequence[ArtifactRow]) -> Table:
    """Size, drift and latency of every artifact; a dash where nothing was measured."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("artifact", "status"):
        table.add_column(name)
    for name in ("MB", "SQNR dB", "CLS cosine", "patch cosine", "p50 ms", "vs FP32"):
        table.add_column(name, justify="right")
    table.add_column("grade")
    for row in rows:
        drift, latency = row.drift or {}, row.latency or {}
        table.add_row(
            row.name, Text(row.status, _COLOURS[row.status]), _number(row.size_mb, 1), _number(drift.get("sqnr_db"), 1),
            _number(drift.get("cls_cosine_mean"), 5), _number(drift.get("patch_cosine_mean"), 5),
            _number(latency.get("p50_ms"), 1), _number(latency.get("speedup_vs_fp32"), 2, "x"), drift.get("grade", ""),
        )  # fmt: skip
    return table


def _number(value: Any, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"
