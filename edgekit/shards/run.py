"""Runs a task over its shards: keeps those that are there, has the pool make the rest, and writes the index last."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit import __version__
from edgekit.errors import DataError
from edgekit.files import atomic_path, sweep
from edgekit.progress import Progress
from edgekit.shards.files import require_pyarrow
from edgekit.shards.plan import Shard
from edgekit.shards.task import Done, Failure, Task
from edgekit.shards.workers import WorkerPool

SCHEMA = "edgekit.shards/1"
INDEX = "index.json"
FAILURES = "failures.csv"
_SHOWN = 100  # failures in the index; all of them are in the file beside it


@dataclass(frozen=True)
class Ran:
    """All shards in order. `kept` were there before, `stale` of those made again had been of something else."""

    shards: tuple[Done, ...]
    kept: int
    stale: int

    @property
    def images(self) -> int:
        """The number of images with rows."""
        return sum(done.images for done in self.shards)

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Failures of all shards in order."""
        return tuple(failure for done in self.shards for failure in done.failures)

    @property
    def workers(self) -> dict[str, float]:
        """Largest memory in MB of each process that made shards."""
        peaks: dict[str, float] = {}
        for done in self.shards:
            if done.peak_rss_mb is not None:
                peaks[done.worker] = max(done.peak_rss_mb, peaks.get(done.worker, 0.0))
        return peaks

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all workers for the shards that were made."""
        return sum(done.cpu_s or 0.0 for done in self.shards)

    def summary(self) -> dict[str, object]:
        """The summary for a program: counts, failures, time, and memory of the workers in MB."""
        return {
            "images": self.images,
            "shards": len(self.shards),
            "kept": self.kept,
            "stale": self.stale,
            "failures": [failure.model_dump() for failure in self.failures],
            "cpu_s": round(self.cpu_s, 3),
            "worker_peak_rss_mb": self.workers,
        }


def run_shards(
    task: Task, shards: Sequence[Shard], out: Path, pool: WorkerPool, *, about: Mapping[str, object], progress: Progress
) -> Ran:
    """Have every shard on disk below `out`, then write `index.json`; a folder without one is unfinished.

    Shards of the same key are kept. Others of the same place are replaced, and those beyond the last are removed, so
    that the folder never holds rows of two runs.

    Args:
        task: the work.
        shards: all of them, see `cut`.
        out: the folder.
        pool: who runs them.
        about: what the index says besides.
        progress: told (done, total) in images, kept ones included.

    Raises:
        DataError: `out` is a file or somebody else's folder, or no image at all could be read.
        BackendMissing, RecipeError: as `WorkerPool.run` says.
    """
    pool.require_engine()
    require_pyarrow()
    _require_own(out, task)
    for name in task.folders():
        (out / name).mkdir(parents=True, exist_ok=True)
    _sweep(out, task)
    done = {shard.index: found for shard in shards if (found := task.kept(shard, out)) is not None}
    waiting = [shard for shard in shards if shard.index not in done]
    stale = sum(any((out / name).exists() for name in task.files(shard)) for shard in waiting)
    kept, total = len(done), sum(len(shard.paths) for shard in shards)
    before = sum(len(shard.paths) for shard in shards if shard.index in done)
    _remove_surplus(out, task, shards)
    if waiting:
        _unfinish(out, task)
        progress(before, total)
        try:
            for one in pool.run(task, waiting, out, lambda now: progress(before + now, total)):
                done[one.index] = one
        finally:
            _sweep(out, task)
    ran = Ran(tuple(done[shard.index] for shard in shards), kept, stale)
    _write_index(task, shards, ran, out, about)
    if not ran.images:
        reasons = "; ".join(f"{failure.path}: {failure.reason}" for failure in ran.failures[:3])
        raise DataError(f"none of the {total} images can be read", why=reasons)
    return ran


def _require_own(out: Path, task: Task) -> None:
    """A folder that is new, empty, or holds what such a run leaves behind."""
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file", why="shards are written to a folder", fix="name a new folder with --out")
    known = {INDEX, FAILURES, *task.folders(), *task.results()}
    strangers = [path.name for path in out.iterdir() if path.name not in known and not path.name.startswith(".")]
    if strangers:
        raise DataError(
            f"{out} holds other files", why=", ".join(sorted(strangers)[:3]), fix="name a new folder with --out"
        )


def _sweep(out: Path, task: Task) -> None:
    """Remove what killed writers left beside their targets."""
    for folder in (out, *(out / name for name in task.folders())):
        sweep(folder)


def _remove_surplus(out: Path, task: Task, shards: Sequence[Shard]) -> None:
    """Delete shards of an earlier run that had more of them."""
    wanted = {name for shard in shards for name in task.files(shard)}
    for folder in task.folders():
        for file in (out / folder).glob("part-*"):
            if f"{folder}/{file.name}" not in wanted:
                _unfinish(out, task)
                file.unlink()


def _unfinish(out: Path, task: Task) -> None:
    """Delete the files that describe shards which are about to change."""
    for name in (INDEX, FAILURES, *task.results()):
        if (out / name).is_file():
            (out / name).unlink()


def _write_index(task: Task, shards: Sequence[Shard], ran: Ran, out: Path, about: Mapping[str, object]) -> None:
    """Write the index and the failures: the same bytes whoever ran the shards."""
    failures = [failure.model_dump() for failure in ran.failures]
    with atomic_path(out / FAILURES) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(Failure.model_fields), lineterminator="\n")
        table.writeheader()
        table.writerows(failures)
    parts = [
        {"files": list(task.files(shard)), "key": shard.key, "images": done.images, "failed": len(done.failures)}
        for shard, done in zip(shards, ran.shards, strict=True)
    ]
    index = {
        "schema": SCHEMA,
        "edgekit": __version__,
        **about,
        "work": task.digest(),
        "images": ran.images,
        "failed": len(failures),
        "failures": failures[:_SHOWN],
        "shards": parts,
    }
    with atomic_path(out / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
