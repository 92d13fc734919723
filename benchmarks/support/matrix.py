"""The rows of the benchmark matrix: one CSV per host with a fixed schema, read and written whole."""

from __future__ import annotations

import csv
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edgekit.files import atomic_path
from edgekit.host import Host

RESULTS = Path(__file__).parents[1] / "results"
CHARTS = Path(__file__).parents[2] / "docs" / "benchmarks" / "charts"
Key = tuple[str, int, int, str]  # model, image size, threads, artifact


@dataclass(frozen=True)
class Row:
    """One way to run one model, on one number of threads. Units are in the names; None is empty in the file.

    `status` is "ok", "failed" or "not here" with a `reason`; a row whose `unstable` is not empty was measured on a busy
    host and may be compared with the others of its group only, which were timed in turns with it. `speedup` is over
    onnx/fp32 of the group, with a 95 % interval; drift is against the FP32 model in torch on `images` photographs.
    """

    suite: str
    date: str
    cpu: str
    cores: int
    isa: str
    model: str
    image_size: int
    threads: int
    batch: int
    artifact: str
    engine: str
    runtime: str
    precision: str
    status: str
    reason: str = ""
    p50_ms: float | None = None
    p90_ms: float | None = None
    min_ms: float | None = None
    calls: int | None = None
    rounds: int | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    load_ms: float | None = None
    peak_rss_mb: float | None = None
    size_mb: float | None = None
    unstable: str = ""
    noise_spread: float | None = None
    noise_drift: float | None = None
    load_before: float | None = None  # running processes per core the minute before; rows until 2026-11 have it
    noise_load: float | None = None  # share of the processor time that other work took meanwhile
    images: int | None = None
    sqnr_db: float | None = None
    sqnr_low_db: float | None = None
    sqnr_high_db: float | None = None
    cls_cosine: float | None = None
    patch_cosine: float | None = None
    same_neighbour: float | None = None
    placement: str = ""
    versions: str = ""

    @property
    def key(self) -> Key:
        return self.model, self.image_size, self.threads, self.artifact


def path_of(host: Host) -> Path:
    """The file of a host, named by its processor, cores and instruction sets."""
    return RESULTS / f"matrix-{re.sub(r'[^a-z0-9]+', '-', str(host).lower()).strip('-')}.csv"


def all_hosts() -> list[Path]:
    """The files of all hosts that were ever measured."""
    return sorted(RESULTS.glob("matrix-*.csv"))


def read(path: Path) -> list[Row]:
    """The rows of a file, none when there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [_parsed(row) for row in csv.DictReader(stream)]


def write(path: Path, rows: list[Row]) -> None:
    """Write all rows, sorted, so that a new measurement changes only its own lines."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.key))


def _parsed(row: dict[str, str]) -> Row:
    values: dict[str, object] = {}
    for field in fields(Row):
        text, kind = row.get(field.name, ""), str(field.type)
        if "None" in kind and text == "":
            values[field.name] = None
        else:
            values[field.name] = int(text) if kind.startswith("int") else float(text) if "float" in kind else text
    return Row(**values)  # type: ignore[arg-type]
