"""Fits a head on a labelled folder: images, features of the frozen backbone, head, file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from edgekit.errors import DataError, RecipeError
from edgekit.files import atomic_path
from edgekit.images import load_set
from edgekit.images.folder import ImageFolder
from edgekit.models import zoo
from edgekit.pipeline.watch import Watcher
from edgekit.workflows.fit_head_training import FittedHead, Kind, classes_of, fit_head

_BATCH = 16


def fit_folder(
    source: Path, out: Path, *, model: str, kind: Kind, size: tuple[int, int], seed: int, watcher: Watcher
) -> FittedHead:
    """Write a head for `edgekit build --heads` to `out`, the names of its classes in the file's metadata.

    Raises:
        RecipeError: `out` is no .safetensors file, or `size` no multiple of the patch.
        DataError: `source` is missing, its folders are no classes, or one of them holds too few images.
    """
    import torch
    from safetensors.numpy import save_file

    if out.suffix != ".safetensors":
        raise RecipeError(f"cannot write a head to {out}", why="known is .safetensors", fix="--out cls.safetensors")
    labels = ImageFolder.scan(source).labels
    if labels is None:
        raise DataError(
            f"the images of {source} have no labels",
            why="each has to lie in the folder of its class",
            fix=f"{source}/cat/1.jpg, {source}/dog/1.jpg, ...",
        )
    classes_of(labels)  # before the features, which take their time
    backbone = zoo.load(model, notify=watcher.note).model.bake(*size)
    images = load_set(
        source,
        backbone.config.preprocess(*size),
        samples=None,
        seed=seed,
        progress=lambda done, total: watcher.stage("images", done, total),
    )
    assert images.labels is not None
    first = 1 + backbone.config.registers
    tokens, patches = [], []
    with torch.no_grad():
        for batch in images.batches(_BATCH):
            hidden, pooled = backbone(torch.from_numpy(batch))
            tokens.append(pooled.numpy())
            patches.append(hidden[:, first:].mean(1).numpy())
            watcher.stage("features", min(len(tokens) * _BATCH, len(images)), len(images))
    watcher.stage(f"fit the {kind} head")
    fitted = fit_head(np.concatenate(tokens), np.concatenate(patches), images.labels, kind, seed=seed)
    with atomic_path(out) as temporary:
        save_file(fitted.state, temporary, metadata={"classes": json.dumps(fitted.classes)})
    return fitted
