"""Training images: the held-out split, the order of the others, and their crops, all functions of seed and step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from edgekit.artifact import Preprocess
from edgekit.distill.augment import AUGMENTATIONS, augmented
from edgekit.distill.recipe import DistillRecipe
from edgekit.errors import DataError
from edgekit.images.folder import ImageFolder
from edgekit.images.preprocess import preprocess
from edgekit.images.read import decoded

LEAST = 16  # images; fewer teach nothing that could be judged
MOST_HELD_OUT = 512
_KEPT_SIDE = 2  # shorter edge of a picture that is kept, in sides of the crops: all that its smallest crop needs
_KEPT_BYTES = 1 << 30  # of decoded pictures; beyond it they are read again
_AHEAD = 3  # batches that are prepared while one is learned
_ORDER, _CROP, _WEIGHT, _SPLIT = range(4)  # streams of random numbers of one seed


@dataclass(frozen=True)
class Split:
    """The folder's images, those that train and those that judge. `digest` is of their names, sizes and the split."""

    root: Path
    training: tuple[Path, ...]
    held_out: tuple[Path, ...]
    digest: str

    @classmethod
    def of(cls, root: Path, recipe: DistillRecipe) -> Split:
        """Draw the held-out images by the seed.

        Raises:
            DataError: no folder, or fewer than 16 images in it.
        """
        paths = ImageFolder.scan(root).paths
        if len(paths) < LEAST:
            raise DataError(
                f"{root} holds {len(paths)} images, too few to distil on",
                why=f"{LEAST} are the least, thousands are better",
                fix="--data DIR",
            )
        count = min(MOST_HELD_OUT, max(2, round(len(paths) * recipe.held_out)))
        chosen = np.random.default_rng([recipe.seed, _SPLIT]).permutation(len(paths))[:count]
        judges = set(chosen.tolist())
        names = "\n".join(f"{path.as_posix()} {(root / path).stat().st_size}" for path in paths)
        digest = hashlib.sha256(f"{names}\n{sorted(judges)}".encode()).hexdigest()
        training = tuple(path for i, path in enumerate(paths) if i not in judges)
        return cls(root, training, tuple(paths[i] for i in sorted(judges)), digest)


def held_out_pixels(split: Split, side: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Held-out pixels (n, 3, side, side) by the official eval transform, and the names of images that cannot be read.

    Raises:
        DataError: none can be read.
    """
    transform = Preprocess.for_size(side, side)
    found, bad = [], []
    with ThreadPoolExecutor(_workers()) as pool:
        for path, pixels in zip(
            split.held_out, pool.map(lambda p: _read(split.root / p, transform), split.held_out), strict=True
        ):
            if pixels is None:
                bad.append(path.as_posix())
            else:
                found.append(pixels)
    if not found:
        raise DataError(f"none of the {len(bad)} held-out images of {split.root} can be read", why=", ".join(bad[:3]))
    return np.stack(found), tuple(bad)


@dataclass(frozen=True)
class Batch:
    """The images of one process in a step; `positions` number the images since the run began, over all processes."""

    step: int
    positions: np.ndarray  # (b,)
    pixels: Tensor  # (b, 3, side, side)


class Stream:
    """Batches of one process: image, crop and colours depend on the seed and the step alone, never on who asks when."""

    def __init__(
        self, split: Split, recipe: DistillRecipe, *, side: int = 0, rank: int = 0, processes: int = 1
    ) -> None:
        """`recipe.batch` is divided among the processes; each takes its own part of every batch.

        `side` is that of the crops, 0 for the teacher's own.
        """
        self._split, self._recipe, self._side = split, recipe, side or recipe.image_size
        self._rank, self._share = rank, recipe.batch // processes
        self._kept: dict[int, Image.Image] = {}
        self._kept_bytes = 0
        self._orders: dict[int, np.ndarray] = {}
        self.unreadable: set[str] = set()

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps [start, stop), prepared ahead by threads."""
        with ThreadPoolExecutor(_workers()) as pool:
            waiting: list[tuple[int, np.ndarray, list[Future[np.ndarray]]]] = []
            asked = start
            try:
                for _ in range(start, stop):
                    while asked < stop and len(waiting) < _AHEAD:
                        positions = self.positions(asked)
                        indices = [self.index(int(position)) for position in positions]
                        jobs = [pool.submit(self._crop, *pair) for pair in zip(indices, positions, strict=True)]
                        waiting.append((asked, positions, jobs))
                        asked += 1
                    step, positions, jobs = waiting.pop(0)
                    yield Batch(step, positions, torch.from_numpy(np.stack([job.result() for job in jobs])))
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def positions(self, step: int) -> np.ndarray:
        """Positions (b,) of the images of this process in a step."""
        first = step * self._recipe.batch + self._rank * self._share
        return np.arange(first, first + self._share)

    def index(self, position: int) -> int:
        """The training image at a position: every image once in each round, in an order of its own."""
        count = len(self._split.training)
        turn, place = divmod(position, count)
        if turn not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k == turn - 1}
            self._orders[turn] = np.random.default_rng([self._recipe.seed, _ORDER, turn]).permutation(count)
        return int(self._orders[turn][place])

    def _crop(self, index: int, position: int) -> np.ndarray:
        generator = np.random.default_rng([self._recipe.seed, _CROP, int(position), index])
        how = AUGMENTATIONS[self._recipe.augment]
        return augmented(self._picture(index), how, self._side, generator)

    def _picture(self, index: int) -> Image.Image:
        """A picture, or the next one that can be read; reduced, since crops never need more of it."""
        if index in self._kept:
            return self._kept[index]
        count = len(self._split.training)
        for tried in range(count):
            path = self._split.training[(index + tried) % count]
            try:
                with decoded(self._split.root / path) as whole:
                    picture = _reduced(whole, _KEPT_SIDE * self._side / min(whole.size))
            except DataError:
                self.unreadable.add(path.as_posix())
                continue
            if self._kept_bytes < _KEPT_BYTES:
                self._kept[index] = picture
                self._kept_bytes += 3 * picture.width * picture.height
            return picture
        raise DataError(f"none of the {count} training images of {self._split.root} can be read")


def _reduced(picture: Image.Image, share: float) -> Image.Image:
    """A copy with its sides scaled by `share`, none enlarged."""
    if share >= 1:
        return picture.copy()
    size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    return picture.resize(size, Image.Resampling.BICUBIC)


def weights_of(positions: np.ndarray, student: int, recipe: DistillRecipe) -> Tensor:
    """Weights (b,) of the images of a batch for one student: one each, or drawn from an exponential of mean one.

    The Bayesian bootstrap (Rubin 1981), online: students fed the same images learn from other samples of them, so
    that their errors differ and their average has less of them.
    """
    if recipe.image_weights == "equal":
        return torch.ones(len(positions))
    drawn = [np.random.default_rng([recipe.seed, _WEIGHT, student, int(p)]).exponential() for p in positions]
    return torch.tensor(drawn, dtype=torch.float32)


def _read(path: Path, transform: Preprocess) -> np.ndarray | None:
    try:
        return preprocess(path, transform)
    except DataError:
        return None


def _workers() -> int:
    return min(8, os.cpu_count() or 1)
