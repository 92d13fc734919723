"""Curates a folder: embeds its images, chooses, and copies the chosen ones with a note of how they were chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from edgekit.artifact import Preprocess, atomic_path
from edgekit.errors import DataError
from edgekit.images import load_set
from edgekit.images.curation import curate
from edgekit.models import zoo
from edgekit.pipeline.watch import Watcher

NOTE = "curation.json"
_BATCH = 16


def curate_folder(
    source: Path, out: Path, *, n: int, model: str, side: int, seed: int, watcher: Watcher
) -> dict[str, int | str]:
    """Copy `n` varied images of `source` to the new folder `out`, keeping their paths inside it.

    Returns:
        counts "images", "chosen", "duplicates", "clusters", "skipped", and "digest" of the images looked at; also
        written to `out`/curation.json.

    Raises:
        DataError: `out` exists and is not empty, or `source` holds no readable image.
    """
    import torch

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty", fix="name a new folder with --out")
    backbone = zoo.load(model).model.bake(side, side)
    images = load_set(
        source, Preprocess.for_size(side, side), samples=None, seed=seed,
        progress=lambda done, total: watcher.stage("images", done, total),
    )  # fmt: skip
    features = []
    with torch.no_grad():
        for batch in images.batches(_BATCH):
            features.append(backbone(torch.from_numpy(batch))[1].numpy())
            watcher.stage("features", len(features) * _BATCH, len(images))
    chosen = curate(np.concatenate(features), n, seed=seed)
    done: dict[str, int | str] = {
        "images": len(images), "chosen": len(chosen.chosen), "duplicates": chosen.duplicates,
        "clusters": chosen.clusters, "skipped": len(images.skipped), "seed": seed, "digest": images.digest,
    }  # fmt: skip
    with atomic_path(out) as folder:
        folder.mkdir()
        for index in chosen.chosen:
            copy = folder / images.paths[index]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / images.paths[index], copy)
        (folder / NOTE).write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    return done
