"""Tables of figures for people: drawn by rich in a terminal, as HTML in a notebook, as plain text by `print`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal

from edgekit.manifest import ArtifactRow, Manifest
from edgekit.report.numbers import row_speed, timing

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as RichTable

_WIDTH = 140  # columns of a table that is printed where no terminal says how wide it is
STATUS_COLOURS = {"ok": "green", "failed": "red", "not here": "yellow"}
_WORDS = ("artifact", "status", "grade")  # columns on the left; the others hold numbers


@dataclass(frozen=True)
class Table:
    """A titled table of texts; `words` are the columns aligned left, `unbroken` those that keep to one line."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    words: tuple[str, ...] = _WORDS
    unbroken: tuple[str, ...] = _WORDS
    colours: dict[str, str] = field(default_factory=dict)  # of cells, by their whole text

    def __rich__(self) -> RichTable:
        """The table as rich draws it."""
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="dim")
        drawn.show_header = any(name.strip() for name in self.columns)
        drawn.title = self.title or None
        for name in self.columns:
            side: Literal["left", "right"] = "left" if name in self.words else "right"
            drawn.add_column(name, justify=side, no_wrap=name in self.unbroken, overflow="fold")
        for row in self.rows:
            drawn.add_row(*(Text(cell, self.colours.get(cell, "")) for cell in row))
        return drawn

    def __str__(self) -> str:
        return _plain(self)

    def _repr_html_(self) -> str:
        """HTML that notebooks show in place of the representation."""
        head = "".join(f"<th{self._style(name)}>{escape(name)}</th>" for name in self.columns)
        lines = (
            "".join(f"<td{self._style(name)}>{escape(cell)}</td>" for name, cell in zip(self.columns, row, strict=True))
            for row in self.rows
        )
        caption = f'<caption style="text-align:left">{escape(self.title)}</caption>' if self.title else ""
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _style(self, column: str) -> str:
        return f' style="text-align:{"left" if column in self.words else "right"}"'


@dataclass(frozen=True)
class Tables:
    """Several tables, one below the other."""

    parts: tuple[Table, ...]

    def __rich__(self) -> Group:
        """The tables as rich draws them."""
        from rich.console import Group

        return Group(*self.parts)

    def __str__(self) -> str:
        return _plain(self)

    def _repr_html_(self) -> str:
        """HTML that notebooks show in place of the representation."""
        return "".join(part._repr_html_() for part in self.parts)


def _plain(drawn: Any) -> str:
    """Text as a console without colours has it, no line ending in spaces."""
    from rich.console import Console

    stream = StringIO()
    Console(file=stream, width=_WIDTH, highlight=False, color_system=None).print(drawn)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def build_tables(manifest: Manifest) -> Tables:
    """Size, drift and latency of every artifact, a table per image size; a dash where nothing was measured.

    The latencies of a table are of one run, which its title names.
    """
    sizes = {row.name: row.preprocess.input_size for row in manifest.artifacts if row.preprocess}
    groups: dict[tuple[int, int] | None, list[ArtifactRow]] = {}
    for row in manifest.artifacts:  # a row without a file has no size and stands with the main one
        groups.setdefault(sizes.get(row.name, next(iter(sizes.values()), None)), []).append(row)
    several = len(groups) > 1
    return Tables(tuple(_of_size(rows, manifest, size if several else None) for size, rows in groups.items()))


def _of_size(rows: Sequence[ArtifactRow], manifest: Manifest, size: tuple[int, int] | None) -> Table:
    timed = next((row for row in rows if row.latency), None)
    words = [f"{size[0]}x{size[1]} pixels"] if size else []
    words += [f"timed together: {timing(manifest.run_of(timed))}"] if timed else []
    columns = ("artifact", "status", "MB", "dB", "CLS cos", "patch cos", "p50 ms", "speed", "grade")
    return Table(columns, tuple(_figures(row) for row in rows), "; ".join(words), colours=STATUS_COLOURS)


def _figures(row: ArtifactRow) -> tuple[str, ...]:
    drift, latency = row.drift or {}, row.latency or {}
    return (
        row.name,
        row.status,
        number(row.size_mb, 1),
        number(drift.get("sqnr_db"), 1),
        number(drift.get("cls_cosine_mean"), 5),
        number(drift.get("patch_cosine_mean"), 5),
        number(latency.get("p50_ms"), 1),
        row_speed(row),
        drift.get("grade", "") + ("  unsteady" if latency.get("stable") is False else ""),
    )


def number(value: float | None, digits: int) -> str:
    """A number with that many decimals, "-" for none."""
    return "-" if value is None else f"{value:.{digits}f}"
