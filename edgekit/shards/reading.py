"""Reads and prepares images ahead of the model, a few at a time and in order; what cannot be read becomes a Failure."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from edgekit.artifact import Preprocess
from edgekit.errors import DataError
from edgekit.images.preprocess import preprocess
from edgekit.images.read import decoded
from edgekit.shards.task import Failure


@dataclass(frozen=True)
class Ready:
    """Image number `place` of a shard: prepared for each transform, (3, H, W) float32, and the digest of its bytes."""

    place: int
    pixels: tuple[np.ndarray, ...]
    digest: str


def read_ahead(
    root: Path, paths: Sequence[str], transforms: Sequence[Preprocess], *, batch: int, threads: int
) -> Iterator[Ready | Failure]:
    """Images in order, while `threads` of them read on; no more than two batches are in memory.

    Raises:
        DataError: the folder is not on this machine, or its disk fails: no reason to call images unreadable.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not on this machine", fix="every worker needs the images under the same path")
    waiting = iter(enumerate(paths))
    pool = ThreadPoolExecutor(threads)  # Pillow decodes and resizes without the GIL
    try:
        ahead: deque[Future[Ready | Failure]] = deque(
            pool.submit(_read, root, path, place, transforms) for place, path in islice(waiting, 2 * batch)
        )
        while ahead:
            found = ahead.popleft().result()
            for place, path in islice(waiting, 1):
                ahead.append(pool.submit(_read, root, path, place, transforms))
            yield found
    finally:
        pool.shutdown(cancel_futures=True)


def batches(found: Iterator[Ready | Failure], size: int, failures: list[Failure]) -> Iterator[list[Ready]]:
    """Groups of `size` readable images; the others are appended to `failures`."""
    group: list[Ready] = []
    for one in found:
        if isinstance(one, Failure):
            failures.append(one)
            continue
        group.append(one)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _read(root: Path, path: str, place: int, transforms: Sequence[Preprocess]) -> Ready | Failure:
    try:
        data = (root / path).read_bytes()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        return Failure(path=path, reason=error.strerror or str(error))
    except OSError as error:
        raise DataError(
            f"cannot read {root / path}",
            why=error.strerror or str(error),
            fix="the same command again: finished shards are kept",
        ) from None
    try:
        with decoded(root / path, data) as picture:
            pixels = tuple(preprocess(picture, one) for one in transforms)
        return Ready(place, pixels, hashlib.sha256(data).hexdigest())
    except DataError as error:
        return Failure(path=path, reason=error.why or error.what)
