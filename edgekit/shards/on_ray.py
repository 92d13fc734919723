"""Runs shards on workers of Ray Data: each is an actor that loads the model once; nothing is sent to anybody."""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from edgekit import __version__, errors
from edgekit.errors import BackendMissing, EdgekitError, RecipeError
from edgekit.shards.plan import Shard
from edgekit.shards.task import Done, Maker, Task

_STORE = 128 * 2**20  # bytes of a local cluster's object store: it holds names of images, and no image
_LONGEST = 40  # characters of the temporary folder: Ray's sockets are in it, and their paths end at 107
_LEFT = "edgekit-ray-"


class _Worker:
    """An actor: opens the model when the first shard comes, and makes one shard after the other."""

    def __init__(self, task: Task, out: str, threads: int, version: str) -> None:
        self._task, self._out, self._threads, self._version = task, Path(out), threads, version
        self._make: Maker | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """Every refusal is an answer: an exception would be tried again, and come back as one of Ray's."""
        from edgekit.measure.isolated import peak_rss_mb

        try:
            shard = Shard(row["index"], row["key"], tuple(row["paths"]), tuple(row["labels"]) or None)
            if self._version != __version__:
                raise BackendMissing(f"a worker has edgekit {__version__}, this run {self._version}",
                                     why=platform.node(), fix=f"pip install edgekit=={self._version}")  # fmt: skip
            self._make = self._make or self._task.open(self._threads)
            done = self._make(shard, self._out, lambda done: None)
        except Exception as error:
            return {"error": json.dumps(_words(error))}
        worker = f"{platform.node()}:{os.getpid()}"
        return {"done": done.model_copy(update={"peak_rss_mb": peak_rss_mb(), "worker": worker}).model_dump_json()}


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
            _Worker, fn_constructor_args=(task, str(out.resolve()), threads, __version__), num_cpus=threads,
            compute=ActorPoolStrategy(
                min_size=min(size, len(rows)), max_size=min(workers or size, len(rows)),
                max_tasks_in_flight_per_actor=1,  # no shard waits for a busy worker while another one is idle
            ),
        )  # fmt: skip
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
            raise EdgekitError("Ray could not finish the shards", why=lines[-1].strip(),
                               fix="the same command again: finished shards are kept") from error  # fmt: skip


@contextmanager
def cluster(address: str | None, workers: int | None, threads: int) -> Iterator[int]:
    """Workers that there is room for at once; a cluster that was started here is gone afterwards, files and all."""
    with _settings(own=address is None):
        try:
            import ray
        except ImportError:
            raise BackendMissing("Ray is not installed", why="--engine ray runs shards on its workers",
                                 fix='pip install "edgekit[ray]"') from None  # fmt: skip
        if ray.is_initialized():
            yield _room(ray.cluster_resources(), workers, threads)
            return
        folder: Path | None = None
        try:
            if address is not None:
                try:
                    with _stderr_kept():
                        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
                except (ConnectionError, ValueError, RuntimeError) as error:
                    raise RecipeError(f"no Ray cluster at {address}", why=str(error).splitlines()[0],
                                      fix="ray start --head, then --ray-address HOST:6379") from None  # fmt: skip
            else:
                folder = _temporary_folder()
                count = (workers or max(1, (os.cpu_count() or 1) // threads)) * threads
                with _stderr_kept():
                    ray.init(num_cpus=count, include_dashboard=False, object_store_memory=_STORE,
                             _temp_dir=str(folder), logging_level=logging.ERROR, log_to_driver=False)  # fmt: skip
            yield _room(ray.cluster_resources(), workers, threads)
        finally:
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _room(resources: dict[str, float], workers: int | None, threads: int) -> int:
    """How many workers of `threads` CPUs fit in, at most those that were asked for."""
    fit = int(resources.get("CPU", 0)) // threads
    if fit < 1:
        raise RecipeError(f"the cluster has {resources.get('CPU', 0):g} CPUs, a worker of {threads} threads fits "
                          "nowhere", fix="--threads 1")  # fmt: skip
    return min(fit, workers or fit)


@contextmanager
def _settings(*, own: bool) -> Iterator[None]:
    """Environment while Ray runs: no usage reports, no token file in the home folder, no noise from its core."""
    values = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal",
              "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # fmt: skip
    if own:
        values["RAY_AUTH_TOKEN"] = _token()
    before = {name: os.environ.get(name) for name in (*values, "RAY_AUTH_MODE")}  # the last is set by ray.init
    os.environ.update({name: value for name, value in values.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


@cache
def _token() -> str:
    """Who may talk to the cluster of this process. One for all its clusters: Ray's core reads it once."""
    return secrets.token_hex(32)


@contextmanager
def _stderr_kept() -> Iterator[None]:
    """Words of Ray's core about its own log and token reach the terminal only when the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        except BaseException:
            file.seek(0)
            os.write(terminal, file.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)


def _temporary_folder() -> Path:
    """A new one with a short path."""
    root = Path(tempfile.gettempdir())
    if len(str(root)) > _LONGEST and Path("/tmp").is_dir():
        root = Path("/tmp")
    remove_left(root)
    return Path(tempfile.mkdtemp(prefix=f"{_LEFT}{os.getpid()}-", dir=root))


def remove_left(root: Path) -> None:
    """Remove the temporary folders of runs that were killed."""
    import psutil

    for left in root.glob(f"{_LEFT}*"):
        pid = left.name.removeprefix(_LEFT).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


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
    return {"kind": "EdgekitError", "what": f"a worker on {platform.node()} failed",
            "why": f"{type(error).__name__}: {error}", "fix": ""}  # fmt: skip


def _error(words: dict[str, str]) -> EdgekitError:
    kind: type[EdgekitError] = EdgekitError
    with suppress(AttributeError):
        kind = getattr(errors, words["kind"])
    return kind(words["what"], why=words["why"], fix=words["fix"])
