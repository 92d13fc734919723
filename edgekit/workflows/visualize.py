"""Pictures of the features of one artifact, or of two side by side, on a folder of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.artifact import Preprocess
from edgekit.backends import load
from edgekit.errors import DataError
from edgekit.images.sets import ImageSet, load_set
from edgekit.measure.features import Features, features_of
from edgekit.progress import Progress, StageProgress
from edgekit.report.visualization import write_visualization


@dataclass(frozen=True)
class Options:
    """Settings of the pictures of a model's features."""

    beside: Path | str | None = None  # a second artifact of the same model and image size, e.g. the INT8 one
    attention: str | None = None  # name or checkpoint of the float model: maps of its last class token; needs torch
    samples: int | None = None  # at most this many images; None takes all
    show: int = 12  # at most this many images get pictures; all of them can be neighbours


def visualize(
    model: Path | str,
    images: str | Path,
    out: Path,
    options: Options = Options(),
    *,
    threads: int | None = None,
    progress: StageProgress | None = None,
) -> Path:
    """Write pictures and a page into the folder `out`; returns the page.

    Args:
        model: an artifact, or a build folder (its best artifact that runs here).
        images: a folder, or "demo".
        out: made if need be.
        options: further models, and how many images are shown.
        threads: of the runtime; None leaves it to it.
        progress: told (stage, done, total).

    Raises:
        DataError: no artifact, no image, or the models do not fit together.
        BackendMissing: no runtime for it is here, or no torch for attention.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file, --visualize writes a folder", fix="--out DIR")
    first = load(model, threads)
    found = load_set(images, first.artifact.preprocess, samples=options.samples, split="evaluation")
    features: dict[str, Features] = {}
    for loaded in (first, load(options.beside, threads)) if options.beside is not None else (first,):
        name = loaded.artifact.name
        if name in features:
            raise DataError(f"both artifacts are {name}", fix="--beside another artifact")
        if loaded.artifact.preprocess != first.artifact.preprocess:
            raise DataError(
                f"{name} prepares images otherwise than {first.artifact.name}",
                why="only artifacts that are fed the same pixels can be shown side by side",
            )
        report = None if progress is None else _stage(progress, name)
        patch = found.preprocess.patch
        features[name] = features_of(loaded.runner, found.pixel_values, patch=patch, names=found.paths, progress=report)
    maps = None
    if options.attention is not None:
        shown = _attention(options.attention, found, features[first.artifact.name], options.show)
        maps = options.attention, shown
    out.mkdir(parents=True, exist_ok=True)
    return write_visualization(found, features, out, attention=maps, show=options.show)


def _attention(name: str, images: ImageSet, features: Features, show: int) -> np.ndarray:
    """Attention (show, heads, P) of the float model."""
    from edgekit.measure.registers.attention import look_inside
    from edgekit.models import zoo

    model = zoo.load(name).model
    if (width := features.tokens.shape[-1]) != model.config.width:
        raise DataError(f"{name} has {model.config.width} channels, the artifact {width}", fix="--attention MODEL")
    return look_inside(model, normalised(images)[:show], images.paths[:show]).attention


def normalised(images: ImageSet) -> np.ndarray:
    """Pixels (n, 3, H, W) as the float model takes them, also where the artifact's graph normalises by itself."""
    transform: Preprocess = images.preprocess
    if transform.normalize == "host":
        return images.pixel_values
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (transform.mean, transform.std))
    scaled: np.ndarray = (images.pixel_values / 255 - mean) / std
    return scaled


def _stage(progress: StageProgress, name: str) -> Progress:
    return lambda done, total: progress(name, done, total)
