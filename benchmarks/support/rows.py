"""Writes what a benchmark measured as a CSV file, one line per row: all at once, or row by row as they come."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_csv(rows: Sequence[Mapping[str, object]], path: Path | None) -> None:
    """The columns are those of the first row; None writes nothing."""
    if path is None or not rows:
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def keep_row(row: Mapping[str, object], path: Path, key: Sequence[str]) -> None:
    """Add a row, in place of the one with the same values in the columns of `key`; an absent file is begun."""
    rows: list[Mapping[str, object]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [old for old in csv.DictReader(file) if any(old[name] != str(row[name]) for name in key)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv([*rows, row], path)
