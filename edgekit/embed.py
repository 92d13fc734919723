"""Features of a folder of images as one file, computed by any artifact of edgekit; needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from edgekit.artifact import atomic_path
from edgekit.backends import load
from edgekit.errors import RecipeError
from edgekit.images.sets import load_set
from edgekit.measure.features import features_of

Tokens = Literal["cls", "patches", "all"]


@dataclass(frozen=True)
class Embedded:
    """What was written: `shape` of the features, `model` that made them, images that were `skipped` and why."""

    shape: tuple[int, ...]
    model: str
    skipped: tuple[tuple[str, str], ...]


def embed_folder(
    model: Path | str,
    images: str | Path,
    out: Path | str,
    *,
    tokens: Tokens = "cls",
    samples: int | None = None,
    batch: int = 1,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Write `features` float32 and, in an .npz, `paths` and `labels` (when subfolders are classes).

    Args:
        model: an artifact, or a build folder (its best artifact that runs here).
        images: a folder, or "demo".
        out: `.npz`, or `.safetensors` (paths are then in its metadata).
        tokens: "cls" (n, D), "patches" (n, rows, columns, D) or "all" (n, 1 + R + P, D).
        samples: at most this many images; None takes all.
        batch: images per call.
        threads: of the runtime; None leaves it to it.
        progress: told (done, total).

    Raises:
        RecipeError: `out` has another suffix.
        DataError: no artifact, or no image that can be read.
        BackendMissing: no runtime for it is here.
    """
    out = Path(out)
    if out.suffix not in (".npz", ".safetensors"):
        raise RecipeError(
            f"cannot write features to {out}", why="known are .npz and .safetensors", fix="--out features.npz"
        )
    loaded = load(model, threads)
    found = load_set(images, loaded.artifact.preprocess, samples=samples, split="evaluation")
    features = features_of(loaded.runner, found.pixel_values, batch, names=found.paths, progress=progress)
    match tokens:
        case "cls":
            values = features.cls
        case "patches":
            values = features.patches.reshape(len(features), *features.grid, -1)
        case "all":
            values = features.tokens
    with atomic_path(out) as temporary:
        _save(temporary, np.ascontiguousarray(values), found.paths, found.labels)
    return Embedded(values.shape, loaded.artifact.name, tuple((skip.path, skip.reason) for skip in found.skipped))


def _save(path: Path, values: np.ndarray, paths: tuple[str, ...], labels: tuple[str, ...] | None) -> None:
    if path.suffix == ".npz":
        arrays = {"features": values, "paths": np.array(paths)}
        arrays |= {} if labels is None else {"labels": np.array(labels)}
        with path.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        return
    import json

    from safetensors.numpy import save_file

    metadata = {"paths": json.dumps(paths)} | ({} if labels is None else {"labels": json.dumps(labels)})
    save_file({"features": values}, path, metadata=metadata)
