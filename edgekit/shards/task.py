"""The work on shards: a Task computes a shard from its images, and knows a shard on disk that is that already."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edgekit.artifact import Frozen
from edgekit.measure.isolated import peak_rss_mb
from edgekit.shards.plan import Shard

Advance = Callable[[int], None]  # images that are done


class Failure(Frozen):
    """An image that could not be used."""

    path: str
    reason: str


class Done(Frozen):
    """A shard that is on disk. `cpu_s` and `peak_rss_mb` are of the process that made it, None of a kept one."""

    index: int
    images: int  # that have rows
    failures: tuple[Failure, ...]
    cpu_s: float | None = None  # of all its threads
    peak_rss_mb: float | None = None  # so far
    worker: str = ""  # <host>:<pid>


Maker = Callable[[Shard, Path, Advance], Done]
"""Computes a shard, writes its files below a folder atomically, and says what it did."""


def timed(make: Maker, shard: Shard, out: Path, progress: Advance) -> Done:
    """Make a shard, and note what this process spent on it."""
    begin = time.process_time()
    done = make(shard, out, progress)
    spent = {"cpu_s": time.process_time() - begin, "peak_rss_mb": peak_rss_mb()}
    return done.model_copy(update=spent | {"worker": f"{platform.node()}:{os.getpid()}"})


class Task(Protocol):
    """The work of a run: the same for all shards, small, and sent to every worker."""

    def digest(self) -> str:
        """The digest of all that decides the numbers: model, preprocessing, batch, and what is kept of the outputs."""
        ...

    def folders(self) -> tuple[str, ...]:
        """Folders of the output that hold files of shards."""
        ...

    def results(self) -> tuple[str, ...]:
        """Files that are written beside the shards when all of these are there."""
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
