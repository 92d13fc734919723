"""The tables in README.md and docs/ are what the CSV files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_no_table_is_stale() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.table", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "python -m benchmarks.table"


def test_a_figure_that_was_typed_by_hand_is_replaced() -> None:
    pytest.importorskip("altair")
    from benchmarks.table import renewed

    page = (ROOT / "docs/benchmarks/plan-cost.md").read_text(encoding="utf-8")
    typed = page.replace("| 171 |", "| 17 |")
    assert typed != page
    assert renewed(typed) == page
