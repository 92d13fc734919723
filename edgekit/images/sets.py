"""An image set: preprocessed pixels of a folder or of the demo photographs, with what was skipped and why."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.artifact import Preprocess
from edgekit.errors import DataError
from edgekit.images.demo import DEMO, Split, demo_crops, photograph_of
from edgekit.images.folder import ImageFolder
from edgekit.images.preprocess import preprocess
from edgekit.progress import Progress


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used."""

    path: str
    reason: str


@dataclass(frozen=True)
class ImageSet:
    """Images ready for a model, in a fixed order. `paths` are relative to `source`; demo crops are <photo>#<crop>.

    `groups` names the photograph that each image is or is a crop of: statistics count photographs, not crops.
    """

    source: str
    pixel_values: np.ndarray  # (n, 3, H, W) float32
    paths: tuple[str, ...]
    labels: tuple[str, ...] | None
    skipped: tuple[Skipped, ...]
    preprocess: Preprocess
    digest: str  # of names and pixels: what the model was shown
    groups: tuple[str, ...]

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
        names = [name for name, _ in crops]
        return image_set(DEMO, transform, pixels, names, groups=[photograph_of(name) for name in names])
    root = Path(source)
    folder = ImageFolder.scan(root)
    read, skipped = _read_folder(folder, _draw(folder, samples, seed, disjoint_from), samples, [transform], progress)
    order = sorted(read)
    return image_set(
        str(root),
        transform,
        [read.pop(i)[1] for i in order],
        [folder.paths[i].as_posix() for i in order],
        labels=[folder.labels[i] for i in order] if folder.labels else None,
        skipped=skipped,
    )


def load_mixed(
    source: str | Path, transforms: Sequence[Preprocess], *, seed: int = 0, progress: Progress | None = None
) -> list[ImageSet]:
    """Calibration images of several sizes, each photograph in one of them.

    Args:
        source: a folder, or "demo" for the demo photographs.
        transforms: that of each image in the order in which they are drawn; equal ones make one set.
        seed: of the draw.
        progress: told (done, total) after each image.

    Returns:
        A set of each transform, in the order of their first mention.

    Raises:
        DataError: as `load_set`.
    """
    pixels: dict[Preprocess, list[tuple[str, np.ndarray]]] = {transform: [] for transform in transforms}
    skipped: list[Skipped] = []
    if str(source) == DEMO:
        for done, (name, crop) in enumerate(demo_crops("calibration", len(transforms), seed=seed)):
            pixels[transforms[done]].append((name, preprocess(crop, transforms[done])))
            if progress:
                progress(done + 1, len(transforms))
    else:
        folder = ImageFolder.scan(Path(source))
        drawn = _draw(folder, len(transforms), seed, None)
        read, skipped = _read_folder(folder, drawn, len(transforms), transforms, progress)
        for index in sorted(read):
            transform, image = read.pop(index)
            pixels[transform].append((folder.paths[index].as_posix(), image))
    sets = []
    for transform, images in pixels.items():
        if images:
            names = [name for name, _ in images]
            groups = [photograph_of(name) for name in names] if str(source) == DEMO else None
            arrays = [image for _, image in images]
            sets.append(image_set(str(source), transform, arrays, names, groups=groups, skipped=skipped))
    return sets


def _read_folder(
    folder: ImageFolder,
    waiting: list[int],
    samples: int | None,
    transforms: Sequence[Preprocess],
    progress: Progress | None,
) -> tuple[dict[int, tuple[Preprocess, np.ndarray]], list[Skipped]]:
    """Images by their index, each with its transform, of which there are as many as images or one for all.

    Args:
        folder: of the images.
        waiting: indices in the order of trial; one that cannot be read is replaced by a later one.
        samples: at most this many; None takes all.
        transforms: of the images that are tried, by their place; the last of them for all that follow.
        progress: told (done, total) after each image.
    """
    wanted = min(samples or len(waiting), len(waiting))
    read: dict[int, tuple[Preprocess, np.ndarray]] = {}
    skipped: list[Skipped] = []
    unlisted = [Skipped(name, reason) for name, reason in folder.skipped]
    transform_of = {index: transforms[min(place, len(transforms) - 1)] for place, index in enumerate(waiting)}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes and resizes without the GIL
        while waiting and len(read) < wanted:  # each round replaces the images that the last one had to skip
            now, waiting = waiting[: wanted - len(read)], waiting[wanted - len(read) :]
            results = pool.map(lambda index: _read(folder, index, transform_of[index]), now)
            for index, result in zip(now, results, strict=True):
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    read[index] = transform_of[index], result
                if progress:
                    progress(len(read), wanted)
    if not read:
        reasons = "; ".join(f"{s.path}: {s.reason}" for s in skipped[:3])
        raise DataError(f"none of the {len(skipped)} images in {folder.root} can be read", why=reasons)
    return read, sorted([*unlisted, *skipped], key=lambda s: s.path)


def _draw(folder: ImageFolder, samples: int | None, seed: int, disjoint_from: ImageSet | None) -> list[int]:
    """Indices into `folder.paths` in the order in which they are to be tried: shuffled only if not all are wanted."""
    same = disjoint_from is not None and Path(disjoint_from.source).resolve() == folder.root.resolve()
    taken = set(disjoint_from.paths) if disjoint_from and same else set()
    indices = [i for i, path in enumerate(folder.paths) if path.as_posix() not in taken]
    if not indices:
        raise DataError(
            f"every image of {folder.root} is in the other set already", fix="name two folders, or take fewer --samples"
        )
    return in_order_of_trial(indices, samples, seed)


def in_order_of_trial(indices: list[int], samples: int | None, seed: int) -> list[int]:
    """The same list, shuffled by `seed` where not all are wanted; its first `samples` are the draw."""
    if samples is not None and samples < len(indices):
        np.random.default_rng(seed).shuffle(indices)
    return indices


def _read(folder: ImageFolder, index: int, transform: Preprocess) -> np.ndarray | Skipped:
    path = folder.paths[index]
    try:
        return preprocess(folder.root / path, transform)
    except DataError as error:
        return Skipped(path.as_posix(), error.why or error.what)


def image_set(
    source: str,
    transform: Preprocess,
    images: list[np.ndarray],
    paths: list[str],
    *,
    labels: list[str] | None = None,
    groups: list[str] | None = None,
    skipped: Sequence[Skipped] = (),
) -> ImageSet:
    """The set of preprocessed images (3, H, W) under their names; the list is emptied on the way."""
    pixel_values = np.empty((len(images), *images[0].shape), np.float32)
    for i in reversed(range(len(images))):
        pixel_values[i] = images.pop()  # freed as it is copied: 256 images at 518 pixels are 0.8 GB once, not twice
    digest = hashlib.sha256("\n".join((transform.model_dump_json(), *paths)).encode())
    digest.update(pixel_values.data)
    return ImageSet(
        source=source,
        pixel_values=pixel_values,
        paths=tuple(paths),
        labels=None if labels is None else tuple(labels),
        skipped=tuple(skipped),
        preprocess=transform,
        digest=digest.hexdigest(),
        groups=tuple(groups or paths),
    )
