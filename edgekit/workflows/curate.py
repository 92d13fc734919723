"""Curates a folder: embeds its images in shards, chooses, and copies the chosen ones with a note of how."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekit.artifact import OUTPUT_NAMES
from edgekit.errors import DataError
from edgekit.files import atomic_path
from edgekit.images.curation import curate
from edgekit.images.listing import Listing
from edgekit.models import zoo
from edgekit.pipeline.watch import Watcher
from edgekit.shards import WorkerPool, cut, files, run_shards
from edgekit.shards.embedding import SIZES, EmbedTask
from edgekit.shards.model import Checkpoint, open_model

NOTE = "curation.json"
_BATCH = 16


@dataclass(frozen=True)
class Embedding:
    """The way images are embedded for a curation."""

    model: str = "demo"  # a name of the zoo, or a checkpoint, run in torch
    side: int = 224  # pixels of the embedded images
    pool: WorkerPool = field(default_factory=WorkerPool)
    features: Path | None = None  # folder of resumable shards; None keeps none, but `out`.features for Ray's workers
    shard_size: int | None = None  # images per shard, 4096 by default


def curate_folder(
    source: Path, out: Path, *, n: int, seed: int, watcher: Watcher, embedding: Embedding = Embedding()
) -> dict[str, int | str]:
    """Copy `n` varied images of `source` to the new folder `out`, keeping their paths inside it.

    Of the images only their class tokens stay in memory, twice: 3 kB per image of a ViT-S.

    Args:
        source: a folder of images.
        out: a folder that does not exist yet.
        n: how many to choose.
        seed: of k-means and of the draw.
        watcher: told of the progress.
        embedding: model and workers.

    Returns:
        counts "images", "chosen", "duplicates", "clusters", "skipped", "seed", "searched" ("all": every pair was
        compared for near-duplicates; "chosen": those that were drawn), and "digest" of names and bytes of the images
        looked at; also written to `out`/curation.json.

    Raises:
        DataError: `out` exists and is not empty, or `source` holds no readable image.
        BackendMissing: scikit-learn, or for shards on disk pyarrow or Ray, is not installed.
    """
    pool, features = embedding.pool, embedding.features
    pool.require_engine()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty", fix="name a new folder with --out")
    if features is None and pool.engine == "ray":
        features = out.with_name(f"{out.name}.features")
    loaded = zoo.load(embedding.model)
    task = EmbedTask(
        root=source.resolve(),
        batch=_BATCH,
        model=Checkpoint(
            name=loaded.name,
            place=zoo.place_of(embedding.model),
            sha256=loaded.sha256,
            preprocess=loaded.model.config.preprocess(embedding.side, embedding.side),
        ),
    )
    del loaded
    listing = Listing.scan(task.root)
    if features is None:
        paths, digests, vectors = _in_memory(task, listing, pool, watcher)
    else:
        paths, digests, vectors = _on_disk(task, listing, features, pool, embedding.shard_size, watcher)
    if not paths:
        raise DataError(f"none of the {len(listing)} images in {source} can be read")
    watcher.note(f"choosing among {len(paths)} images")
    chosen = curate(vectors, n, seed=seed)
    done: dict[str, int | str] = {
        "images": len(paths),
        "chosen": len(chosen.chosen),
        "duplicates": chosen.duplicates,
        "clusters": chosen.clusters,
        "searched": chosen.searched,
        "skipped": len(listing) - len(paths),
        "seed": seed,
        "digest": _digest(paths, digests),
    }
    if features is not None:
        done["features"] = str(features)
    with atomic_path(out) as folder:
        folder.mkdir()
        for index in chosen.chosen:
            copy = folder / paths[index]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / paths[index], copy)
        (folder / NOTE).write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    return done


def _in_memory(
    task: EmbedTask, listing: Listing, pool: WorkerPool, watcher: Watcher
) -> tuple[list[str], list[str], np.ndarray]:
    """Names, digests and class tokens (n, D) of the images that can be read."""
    run, total = open_model(task.model, pool.threads), len(listing)
    found = task.embed(run, listing.paths, pool.threads, lambda done: watcher.stage("features", done, total))
    return [listing.paths[i] for i in found.places], list(found.digests), found.cls


def _on_disk(
    task: EmbedTask, listing: Listing, folder: Path, pool: WorkerPool, shard_size: int | None, watcher: Watcher
) -> tuple[list[str], list[str], np.ndarray]:
    """Names, digests and class tokens from shards, which the pool makes where they are missing."""
    size = shard_size or SIZES["cls"]
    shards = cut(listing, size, task.digest())
    about = {
        "model": {"name": task.model.name, "sha256": task.model.sha256},
        "preprocess": task.model.preprocess.model_dump(mode="json"),
        "source": str(listing.root),
        "tokens": task.tokens,
        "batch": task.batch,
        "shard_size": size,
    }
    run_shards(
        task, shards, folder, pool, about=about, progress=lambda done, total: watcher.stage("features", done, total)
    )
    paths: list[str] = []
    digests: list[str] = []
    parts: list[np.ndarray] = []
    for file in (folder / task.files(shard)[-1] for shard in shards):
        paths += files.read_words(file, "path")
        digests += files.read_words(file, "digest")
        parts.append(files.read_vectors(file, OUTPUT_NAMES[1]))
    return paths, digests, np.concatenate(parts)


def _digest(paths: Sequence[str], digests: Sequence[str]) -> str:
    """The digest of the names and bytes of images in order."""
    lines = (f"{path}\0{digest}" for path, digest in zip(paths, digests, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
