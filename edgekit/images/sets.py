"""An image set: preprocessed pixels of a folder or of the demo photographs, with what was skipped and why."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.artifact import Preprocess
from edgekit.errors import DataError
from edgekit.images.demo import DEMO, Split, demo_crops
from edgekit.images.folder import ImageFolder
from edgekit.images.preprocess import preprocess

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageSet:
    """Images ready for a model, in a fixed order. `paths` are relative to `source`; demo crops are <photo>#<crop>."""

    source: str
    pixel_values: np.ndarray  # (n, 3, H, W) float32
    paths: tuple[str, ...]
    labels: tuple[str, ...] | None
    skipped: tuple[Skipped, ...]
    preprocess: Preprocess
    digest: str  # of names and pixels: what the model was shown

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Views of at most `size` images: (b, 3, H, W)."""
        for start in range(0, len(self), size):
            yield self.pixel_values[start : start + size]


def load_set(
    source: str | Path,
    transform: Preprocess,
    *,
    samples: int | None,
    seed: int = 0,
    split: Split = "calibration",
    disjoint_from: ImageSet | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Read, preprocess and collect images.

    Args:
        source: a folder, or "demo" for the demo photographs.
        transform: how pixels become model input.
        samples: at most this many, drawn by `seed` from a folder; None takes all of a folder, 64 or 32 of the demo.
        seed: of the draw.
        split: which demo photographs; folders have no splits.
        disjoint_from: images already in that set are left out when it comes from the same folder.
        progress: told (done, total) after each image.

    Raises:
        DataError: no folder, no image in it, or none that can be read (the reasons are in the message).
    """
    if samples is not None and samples < 1:
        raise DataError(f"{samples} images were asked for", fix="--samples 64")
    if str(source) == DEMO:
        crops = list(demo_crops(split, samples or (64 if split == "calibration" else 32), seed=seed))
        pixels = []
        for _, crop in crops:
            pixels.append(preprocess(crop, transform))
            if progress:
                progress(len(pixels), len(crops))
        return _collect(DEMO, np.stack(pixels), tuple(name for name, _ in crops), None, (), transform)
    return _load_folder(Path(source), transform, samples, seed, disjoint_from, progress)


def _load_folder(
    root: Path, transform: Preprocess, samples: int | None, seed: int, disjoint_from: ImageSet | None,
    progress: Progress | None,
) -> ImageSet:  # fmt: skip
    folder = ImageFolder.scan(root)
    taken = (
        set(disjoint_from.paths) if disjoint_from and Path(disjoint_from.source).resolve() == root.resolve() else set()
    )
    waiting = [i for i, path in enumerate(folder.paths) if path.as_posix() not in taken]
    if not waiting:
        raise DataError(f"every image of {root} is in the other set already", fix="use two folders, or fewer --samples")
    wanted = min(samples or len(waiting), len(waiting))
    if wanted < len(waiting):
        np.random.default_rng(seed).shuffle(waiting)

    def read(index: int) -> np.ndarray | Skipped:
        path = folder.paths[index]
        try:
            return preprocess(root / path, transform)
        except DataError as error:
            return Skipped(path.as_posix(), error.why or error.what)

    pixels: dict[int, np.ndarray] = {}
    skipped: list[Skipped] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes and resizes without the GIL
        while waiting and len(pixels) < wanted:  # each round replaces the images that the last one had to skip
            now, waiting = waiting[: wanted - len(pixels)], waiting[wanted - len(pixels) :]
            for index, result in zip(now, pool.map(read, now), strict=True):
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    pixels[index] = result
                if progress:
                    progress(len(pixels), wanted)
    if not pixels:
        reasons = "; ".join(f"{s.path}: {s.reason}" for s in skipped[:3])
        raise DataError(f"none of the {len(skipped)} images in {root} can be read", why=reasons)
    order = sorted(pixels)
    return _collect(
        str(root),
        np.stack([pixels.pop(i) for i in order]),
        tuple(folder.paths[i].as_posix() for i in order),
        tuple(folder.labels[i] for i in order) if folder.labels else None,
        tuple(sorted(skipped, key=lambda s: s.path)),
        transform,
    )


def _collect(
    source: str, pixels: np.ndarray, paths: tuple[str, ...], labels: tuple[str, ...] | None,
    skipped: tuple[Skipped, ...], transform: Preprocess,
) -> ImageSet:  # fmt: skip
    digest = hashlib.sha256("\n".join((transform.model_dump_json(), *paths)).encode())
    digest.update(pixels.data)
    return ImageSet(source, pixels, paths, labels, skipped, transform, digest.hexdigest())
