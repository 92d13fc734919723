"""The worker pool that runs shards: this process, or workers of Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgekit.artifact import Frozen
from edgekit.errors import BackendMissing, RecipeError
from edgekit.shards.plan import Shard
from edgekit.shards.task import Advance, Done, Task, timed

Engine = Literal["local", "ray"]
_OF_RAY = ("ray", "pyarrow", "pandas")


class WorkerPool(Frozen):
    """A worker pool: the engine, and with "ray" how many workers of how many threads, and the cluster they belong to.

    `threads` are a worker's CPUs: of its model's runtime, and of reading ahead. None is one with Ray; here, whatever
    the runtime chooses. `workers` None takes all CPUs there are. `address` None starts a cluster on this machine.
    """

    engine: Engine = "local"
    workers: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    address: str | None = None

    def run(self, task: Task, shards: Sequence[Shard], out: Path, progress: Advance) -> Iterator[Done]:
        """Make shards and yield each when it is there, in any order.

        Raises:
            RecipeError: workers or an address for the local engine, or more workers than there are CPUs.
            BackendMissing: Ray is not installed, or a runtime is not where the workers are.
            DataError: the images or the model cannot be read by a worker.
        """
        if self.engine == "ray":
            from edgekit.shards.on_ray import run_on_ray

            yield from run_on_ray(
                task,
                shards,
                out,
                workers=self.workers,
                threads=self.threads or 1,
                address=self.address,
                progress=progress,
            )
            return
        make = task.open(self.threads)
        before = 0
        for shard in shards:
            yield timed(make, shard, out, lambda done, before=before: progress(before + done))  # type: ignore[misc]
            before += len(shard.paths)

    def require_engine(self) -> None:
        """Refuse a pool that cannot run, before a model is opened.

        Raises:
            RecipeError: workers or a cluster were named for the local engine.
            BackendMissing: Ray, or what its tables are made with, is not installed.
        """
        if self.engine == "ray" and (absent := [name for name in _OF_RAY if find_spec(name) is None]):
            raise BackendMissing(
                f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed",
                why="--engine ray runs shards on its workers, as Parquet files",
                fix='pip install "edgekit[ray]"',
            )
        if self.engine == "local" and (self.workers is not None or self.address is not None):
            raise RecipeError(
                "--workers and --ray-address are Ray's",
                why="the local engine is this process alone",
                fix="--engine ray",
            )
