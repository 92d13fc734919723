"""The figures that edgekit/backends/README.md gives are those of the benchmark's CSV."""

from __future__ import annotations

import csv
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_forms_of_tflite() -> None:
    page = (ROOT / "edgekit/backends/README.md").read_text(encoding="utf-8")
    with (ROOT / "benchmarks/results/tflite_forms.csv").open(newline="", encoding="utf-8") as stream:
        measured = {row["form"]: row for row in csv.DictReader(stream)}
    table = re.findall(r"^\| ([^|`]+) \| ([\d. |]+) \|$", page, re.MULTILINE)
    assert len(table) == 9
    for form, figures in table:
        row = measured[form]
        wanted = [row[column] for column in ("cls_cosine", "cls_cosine_min", "sqnr_db", "partitions", "cpu_ms")]
        assert figures.split(" | ") == wanted, form
    for tokens in (257, 1370):
        for form in ("operators", "composite"):
            assert measured[f"attention layer, {tokens} tokens, {form}"]["cpu_ms"] in page
