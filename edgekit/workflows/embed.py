"""Features of a folder of images as one file, or as a folder of shards, by any artifact; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends import LoadedModel, load
from edgekit.errors import RecipeError
from edgekit.files import atomic_path
from edgekit.images.sets import ImageSet, load_set
from edgekit.measure.features import features_of
from edgekit.progress import Progress
from edgekit.shards.embedding import SIZES, EmbedTask, Tokens

if TYPE_CHECKING:
    from edgekit.shards import Ran, WorkerPool


@dataclass(frozen=True)
class Embeddings:
    """Features of images by one model, a row per image.

    `features` are float32: (n, D) class tokens, (n, rows, columns, D) patches or (n, 1 + R + P, D) of all tokens.
    `labels` are the folders of the images where each lies in one. `reason` says why this artifact was taken.
    """

    features: np.ndarray
    paths: tuple[str, ...]
    labels: tuple[str, ...] | None
    skipped: tuple[tuple[str, str], ...]  # (path, reason)
    model: str
    reason: str

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Embedded:
    """The written features: `shape` of the features, images `skipped`, the `model` and the `reason` it was taken."""

    shape: tuple[int, ...]
    model: str
    skipped: tuple[tuple[str, str], ...]
    reason: str = ""


def embed_folder(
    model: Path | str,
    images: str | Path,
    out: Path | str,
    *,
    tokens: Tokens = "cls",
    samples: int | None = None,
    batch: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
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
            f"cannot write features to {out}",
            why="known are .npz, .safetensors, and a folder of shards",
            fix="--out features.npz",
        )
    loaded = load(model, threads)
    shown = load_set(images, loaded.artifact.preprocess, samples=samples, split="evaluation")
    found = embed_images(loaded, shown, tokens=tokens, batch=batch, progress=progress)
    with atomic_path(out) as temporary:
        _save(temporary, found.features, found.paths, found.labels)
    return Embedded(found.features.shape, found.model, found.skipped, found.reason)


def embed_images(
    loaded: LoadedModel, images: ImageSet, *, tokens: Tokens = "cls", batch: int = 1, progress: Progress | None = None
) -> Embeddings:
    """Features of a set of images that was prepared for the model.

    Raises:
        DataError: no image, or the number of tokens does not fit the image size.
    """
    features = features_of(
        loaded.runner, images.pixel_values, batch, patch=images.preprocess.patch, names=images.paths, progress=progress
    )
    match tokens:
        case "cls":
            values = features.cls
        case "patches":
            values = features.patches.reshape(len(features), *features.grid, -1)
        case "all":
            values = features.tokens
    skipped = tuple((skip.path, skip.reason) for skip in images.skipped)
    return Embeddings(
        np.ascontiguousarray(values), images.paths, images.labels, skipped, loaded.artifact.name, loaded.reason
    )


def embed_shards(
    model: Path | str,
    images: str | Path,
    out: Path | str,
    pool: WorkerPool,
    *,
    tokens: Tokens = "cls",
    batch: int = 1,
    shard_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[str, Ran, str]:
    """Write features of any number of images as shards below `out`; what is there already is kept.

    `features/part-*.parquet` hold `path`, `label` (when subfolders are classes), `digest` (SHA-256 of the file) and
    `pooler_output` (D,) float32; with "patches" or "all", `tokens/part-*.safetensors` hold `tokens` (n, ..., D) of
    the same rows. `failures.csv` names images that could not be read, `index.json`, written last, describes it all.
    Numbers are those of `embed_folder` where no batch is cut by the end of a shard or by an unreadable image; with
    `batch` 1 that is always.

    Args:
        model: an artifact, or a build folder (its best artifact that runs here).
        images: a folder.
        out: a new folder, or that of an earlier run.
        pool: who computes.
        tokens: "cls", or also "patches" (n, rows, columns, D) or "all" (n, 1 + R + P, D).
        batch: images per call.
        shard_size: images per shard; None takes 4096, or 256 with tokens, which are in memory until a shard is written.
        progress: told (done, total).

    Returns:
        The model's name, what was run, and why that model was taken.

    Raises:
        DataError: no artifact, no image that can be read, or `out` is another folder.
        BackendMissing: no runtime for it is here, or no pyarrow or Ray.
        RecipeError: the demo photographs, which are no folder, or an impossible pool.
    """
    from edgekit.images.demo import DEMO
    from edgekit.images.listing import Listing
    from edgekit.shards import cut, run_shards

    pool.require_engine()
    if str(images) == DEMO:
        raise RecipeError("the demo photographs are no folder", why="shards are of files", fix="--out features.npz")
    loaded = load(model, pool.threads)
    artifact = loaded.artifact
    artifact = artifact.model_copy(update={"path": artifact.path.resolve()})
    task = EmbedTask(root=Path(images).resolve(), model=artifact, tokens=tokens, batch=batch)
    size = shard_size or SIZES[tokens]
    shards = cut(Listing.scan(task.root), size, task.digest())
    about = {
        "model": artifact.model_dump(mode="json", include={"name", "format", "precision", "variant", "sha256"}),
        "preprocess": artifact.preprocess.model_dump(mode="json"),
        "source": str(images),
        "tokens": tokens,
        "batch": batch,
        "shard_size": size,
    }
    ran = run_shards(task, shards, Path(out), pool, about=about, progress=progress or (lambda done, total: None))
    return artifact.name, ran, loaded.reason


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
