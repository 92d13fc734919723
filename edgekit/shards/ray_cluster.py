"""A connection to a Ray cluster, or a small one on this machine that is gone afterwards; reports of use are off."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from edgekit.errors import BackendMissing, RecipeError
from edgekit.host import usable_cores

_STORE = 128 * 2**20  # bytes of a local cluster's object store: it holds names of images, and no image
_LONGEST = 40  # characters of the temporary folder: Ray's sockets are in it, and their paths end at 107
_PATIENCE = 5  # seconds for a cluster to answer
_LEFT = "edgekit-ray-"


@contextmanager
def cluster(address: str | None, workers: int | None, threads: int) -> Iterator[int]:
    """Workers that there is room for at once; a cluster that was started here is gone afterwards, files and all."""
    with _settings(own=address is None):
        try:
            import ray
        except ImportError:
            raise BackendMissing(
                "Ray is not installed", why="--engine ray runs shards on its workers", fix='pip install "edgekit[ray]"'
            ) from None
        if ray.is_initialized():
            yield _room(ray.cluster_resources(), workers, threads)
            return
        folder = _temporary_folder() if address is None else None
        try:
            with _stderr_kept():
                if folder is None:
                    _connect(str(address))
                else:
                    _start((workers or max(1, usable_cores() // threads)) * threads, folder)
            yield _room(ray.cluster_resources(), workers, threads)
        finally:
            ray.shutdown()
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _connect(address: str) -> None:
    """Join a cluster that runs already."""
    import ray

    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise RecipeError(
            f"no Ray cluster at {address}",
            why=str(error).strip().splitlines()[0],
            fix="ray start --head, then --ray-address HOST:6379",
        ) from None


def _start(cpus: int, folder: Path) -> None:
    """A cluster of this machine that only it can reach."""
    import ray

    ray.init(
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=_STORE,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(folder),
    )


def _room(resources: dict[str, float], workers: int | None, threads: int) -> int:
    """The number of workers of `threads` CPUs that fit in, at most the number asked for."""
    fit = int(resources.get("CPU", 0)) // threads
    if fit < 1:
        raise RecipeError(
            f"the cluster has {resources.get('CPU', 0):g} CPUs, a worker of {threads} threads fits nowhere",
            fix="--threads 1",
        )
    return min(fit, workers or fit)


@contextmanager
def _settings(*, own: bool) -> Iterator[None]:
    """Environment while Ray runs: no usage reports, no token file in the home folder, no noise from its core."""
    values = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
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
    """The authentication token of the clusters of this process: one for all, since Ray's core reads it once."""
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
        except Exception as error:
            if not isinstance(error, RecipeError):
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
