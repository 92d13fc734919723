"""Records of finished artifacts, by which the next run of a build keeps them instead of making them again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import Field

from edgekit.artifact import Frozen
from edgekit.errors import DataError
from edgekit.files import inside, read_text, sealed, sealed_path, sha256_of
from edgekit.manifest import ArtifactRow
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
    plans: dict[str, str] = Field(default_factory=dict)  # SHA-256 by path in OUT of those that it was written from

    def write(self, out: Path) -> None:
        """Write OUT/records/<name>.json atomically, its digest beside it."""
        with sealed_path(_path(out, self.row.name)) as temporary:
            temporary.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def holds(self, out: Path, key: str) -> bool:
        """Whether the artifact was made from the same things and is still there, byte for byte."""
        path = self.file(out)
        if self.key != key or path is None:
            return False
        try:
            return sha256_of(path) == self.row.sha256
        except OSError:  # the .bin beside an .xml is gone
            return False

    def file(self, out: Path) -> Path | None:
        """The artifact, if it was made and is still there."""
        made = self.row.status == "ok" and self.row.path is not None and (out / self.row.path).exists()
        return out / str(self.row.path) if made else None


def read_record(out: Path, name: str) -> Record | None:
    """The record of an artifact; None when there is none, or none that this edgekit wrote so (it is made anew)."""
    path = _path(out, name)
    try:
        if sealed(path):
            return None
        record = Record.model_validate_json(read_text(path))
        if record.row.path is not None:
            inside(out, record.row.path, said_by=str(path))
    except (OSError, ValueError, DataError):
        return None
    return record if record.row.name == name else None


def records_in(out: Path) -> dict[str, Record]:
    """Records by name of all finished artifacts whose file is still there, whichever recipe made them."""
    found = {}
    for path in sorted((out / FOLDER).glob("*.json")):
        record = read_record(out, path.stem.replace("_", "/", 1))
        if record and record.file(out) is not None:
            found[record.row.name] = record
    return found


def digest_of(**parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path(out: Path, name: str) -> Path:
    return out / FOLDER / f"{name.replace('/', '_')}.json"
