"""What a build remembers of each finished artifact, so that the next run keeps it instead of making it again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekit.artifact import ArtifactRow, Frozen, atomic_path, sha256_of
from edgekit.measure.drift import DriftReport
from edgekit.measure.latency import LatencyReport

FOLDER = "records"  # inside a build folder


class Record(Frozen):
    """One artifact with its full measurements. Each key is the digest of all that decides the part it stands before."""

    key: str
    row: ArtifactRow
    drift_key: str = ""
    drift: DriftReport | None = None
    latency_key: str = ""
    latency: LatencyReport | None = None

    def write(self, out: Path) -> None:
        """Write OUT/records/<name>.json atomically."""
        with atomic_path(_path(out, self.row.name)) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def holds(self, out: Path, key: str) -> bool:
        """Whether the artifact was made from the same things and is still there, byte for byte."""
        row = self.row
        if self.key != key or row.status != "ok" or row.path is None or not (out / row.path).exists():
            return False
        try:
            return sha256_of(out / row.path) == row.sha256
        except OSError:  # the .bin beside an .xml is gone
            return False


def read_record(out: Path, name: str) -> Record | None:
    """The record of an artifact; None when there is none, or none that this edgekit can read (it is made anew)."""
    try:
        return Record.model_validate_json(_path(out, name).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def digest_of(**parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path(out: Path, name: str) -> Path:
    return out / FOLDER / f"{name.replace('/', '_')}.json"
