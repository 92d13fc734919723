"""What a shard's work is: a Task says what is computed of its images, and whether a shard on disk is that already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edgekit.artifact import Frozen
from edgekit.shards.plan import Shard

Progress = Callable[[int], None]  # images that are done


class Failure(Frozen):
    """An image that could not be used."""

    path: str
    reason: str


class Done(Frozen):
    """A shard that is on disk. `peak_rss_mb` is the memory of the process that made it, None of a kept one."""

    index: int
    images: int  # that have rows
    failures: tuple[Failure, ...]
    peak_rss_mb: float | None = None
    worker: str = ""  # <host>:<pid>


Maker = Callable[[Shard, Path, Progress], Done]
"""Computes a shard, writes its files below a folder atomically, and says what it did."""


class Task(Protocol):
    """The work of a run: the same for all shards, small, and sent to every worker."""

    def digest(self) -> str:
        """Of all that decides the numbers: model, preprocessing, batch, and what is kept of the outputs."""
        ...

    def folders(self) -> tuple[str, ...]:
        """Folders of the output that hold files of shards."""
        ...

    def results(self) -> tuple[str, ...]:
        """What is written beside them when all shards are there."""
        ...

    def files(self, shard: Shard) -> tuple[str, ...]:
        """Files of a shard below the output folder; the last one is written last."""
        ...

    def kept(self, shard: Shard, out: Path) -> Done | None:
        """The shard on disk when it is whole and has the key, else None."""
        ...

    def open(self, threads: int | None) -> Maker:
        """Load the model in this process, once for many shards. Raises BackendMissing or DataError."""
        ...
