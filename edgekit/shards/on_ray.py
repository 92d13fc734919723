"""Runs shards on workers of Ray Data: each is an actor that loads the model once."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgekit import __version__, errors
from edgekit.errors import BackendMissing, EdgekitError
from edgekit.shards.plan import Shard
from edgekit.shards.ray_cluster import cluster
from edgekit.shards.task import Done, Maker, Task, timed


class _Worker:
    """An actor: opens the model when the first shard comes, and makes one shard after the other."""

    def __init__(self, task: Task, out: str, threads: int, version: str) -> None:
        self._task, self._out, self._threads, self._version = task, Path(out), threads, version
        self._make: Maker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Every refusal is an answer: an exception would be tried again, and come back as one of Ray's."""
        try:
            shard = Shard(row["index"], row["key"], tuple(row["paths"]), tuple(row["labels"]) or None)
            if self._version != __version__:
                raise BackendMissing(
                    f"a worker has edgekit {__version__}, this run {self._version}",
                    why=platform.node(),
                    fix=f"pip install edgekit=={self._version}",
                )
            self._make = self._make or self._task.open(self._threads)
            done = timed(self._make, shard, self._out, lambda done: None)
        except Exception as error:
            return {"error": json.dumps(_words(error))}
        return {"done": done.model_dump_json()}


def run_on_ray(
    task: Task,
    shards: Sequence[Shard],
    out: Path,
    *,
    workers: int | None,
    threads: int,
    address: str | None,
    progress: Callable[[int], None],
) -> Iterator[Done]:
    """Yield shards as they are finished. Needs edgekit, the images, the model and `out` on every machine.

    A worker that dies is started again and its shard with it. Uses the cluster that this process is connected to, if
    it is to one.

    Raises:
        BackendMissing: Ray is not installed.
        RecipeError: the cluster cannot have that many threads, or cannot be reached.
        EdgekitError: what a worker refused, in its words.
    """
    with cluster(address, workers, threads) as size:
        import ray
        from ray.data import ActorPoolStrategy

        _quiet()
        rows = [
            {"index": shard.index, "key": shard.key, "paths": list(shard.paths), "labels": list(shard.labels or ())}
            for shard in shards
        ]
        # blocks are put in the object store by this process: a reading task would wait for a CPU that workers hold
        made = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Worker,
            fn_constructor_args=(task, str(out.resolve()), threads, __version__),
            num_cpus=threads,
            compute=ActorPoolStrategy(
                min_size=min(size, len(rows)),
                max_size=min(workers or size, len(rows)),
                max_tasks_in_flight_per_actor=1,  # no shard waits for a busy worker while another one is idle
            ),
        )
        lengths, finished = {shard.index: len(shard.paths) for shard in shards}, 0
        try:
            for row in made.iter_rows():
                if row.get("error"):
                    raise _error(json.loads(row["error"]))
                done = Done.model_validate_json(row["done"])
                finished += lengths[done.index]
                progress(finished)
                yield done
        except ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise EdgekitError(
                "Ray could not finish the shards",
                why=lines[-1].strip(),
                fix="the same command again: finished shards are kept",
            ) from error


def _quiet() -> None:
    """No bars and no log lines of Ray Data: edgekit has a line of its own."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _words(error: Exception) -> dict[str, str]:
    """An exception as what can travel as JSON."""
    if isinstance(error, EdgekitError):
        return {"kind": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}
    return {
        "kind": "EdgekitError",
        "what": f"a worker on {platform.node()} failed",
        "why": f"{type(error).__name__}: {error}",
        "fix": "",
    }


def _error(words: dict[str, str]) -> EdgekitError:
    kind: type[EdgekitError] = EdgekitError
    with suppress(AttributeError):
        kind = getattr(errors, words["kind"])
    return kind(words["what"], why=words["why"], fix=words["fix"])
