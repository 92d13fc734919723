"""Times a finished build again, on this machine: manifest, records and report get the new latencies, and the choice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.errors import DataError
from edgekit.host import describe_host
from edgekit.manifest import Manifest
from edgekit.pipeline.choose import Measured, choose, main_size
from edgekit.pipeline.folder import folder_lock
from edgekit.pipeline.records import records_in
from edgekit.pipeline.reporting import refresh_report
from edgekit.pipeline.timing import Timing, runs_of, timed
from edgekit.pipeline.watch import Silent, Watcher
from edgekit.report.verdict import Aim, Verdict


@dataclass(frozen=True)
class Remeasured:
    """Result of timing a build folder again; `report` is the page, None where there is none to draw."""

    manifest: Manifest
    timed: tuple[str, ...]
    verdict: Verdict
    report: Path | None


def remeasure(out: Path, timing: Timing, watcher: Watcher | None = None) -> Remeasured:
    """Time all artifacts of a build folder in one interleaved run per image size, and choose among them anew.

    The choice is for the aim that the manifest has recorded, else for latency. Needs no torch.

    Args:
        out: the build folder.
        timing: threads and rounds; it is measured even where nothing has changed.
        watcher: told what happens.

    Raises:
        DataError: no build folder, none of its artifacts has a record, or the report is damaged.
    """
    watcher = watcher or Silent()
    Manifest.read(out)  # before anything is made in it
    with folder_lock(out):
        manifest = Manifest.read(out)
        records = records_in(out)
        size = main_size(manifest)
        if not records or size is None:
            raise DataError(f"{out} holds no finished artifact", fix=f"edgekit build --out {out}")
        records, names = timed(records, manifest, out, replace(timing, again=True), watcher)
        manifest = manifest.model_copy(
            update={
                "artifacts": tuple(records[row.name].row if row.name in records else row for row in manifest.artifacts),
                "host": describe_host().model_dump(mode="json"),
                "runs": runs_of(record.latency for record in records.values()),
            }
        )
        aim = manifest.choice or Aim()
        measured = Measured.of(records.values(), size)
        verdict, manifest = choose(manifest, measured, Aim(goal=aim.goal, max_drop=aim.max_drop))
        manifest.write(out)
        page = refresh_report(out, manifest, measured, verdict, watcher)
    return Remeasured(manifest, names, verdict, page)
