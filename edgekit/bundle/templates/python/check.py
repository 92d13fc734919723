"""Proves that every model of this bundle that runs here gives the features it must: `python check.py`."""

import sys
from pathlib import Path

from edgekit.bundle.check import check_bundle

failed = False
for check in check_bundle(Path(__file__).resolve().parents[1]):
    print(f"{check.outcome:>7}  {check.path}: {check.words}", flush=True)
    failed |= check.outcome == "failed"
sys.exit(failed)
