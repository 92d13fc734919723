"""The figures that the pages of TFLite give are those of the benchmark's CSV."""

from __future__ import annotations

import csv
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_forms_of_tflite() -> None:
    table_page = (ROOT / "docs/benchmarks/tflite-forms.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/backends/tflite.md").read_text(encoding="utf-8")
    with (ROOT / "benchmarks/results/tflite_forms.csv").open(newline="", encoding="utf-8") as stream:
        measured = {row["form"]: row for row in csv.DictReader(stream)}
    table = re.findall(r"^\| ([^|`]+) \| ([\d. |]+) \|$", table_page, re.MULTILINE)
    assert len(table) == len(measured) == 13
    for form, figures in table:
        row = measured[form]
        wanted = [
            row[column] for column in ("cls_cosine", "cls_cosine_min", "sqnr_db", "partitions", "cpu_ms", "size_mb")
        ]
        assert figures.split(" | ") == wanted, form
    for tokens in (257, 1370):
        for form in ("operators", "composite"):
            assert measured[f"attention layer, {tokens} tokens, {form}"]["cpu_ms"] in page
