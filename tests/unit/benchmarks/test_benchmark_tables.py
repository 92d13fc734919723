"""The tables in both READMEs are what the CSV files say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_no_table_is_stale() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.table", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0, "python -m benchmarks.table"
