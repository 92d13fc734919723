"""The model that a worker opens: an artifact in its runtime, or a float checkpoint in torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgekit.artifact import OUTPUT_NAMES, Artifact, Frozen, Preprocess
from edgekit.backends import get_backend
from edgekit.errors import DataError
from edgekit.files import sha256_of

Run = Callable[[np.ndarray], dict[str, np.ndarray]]  # (B, 3, H, W) float32 -> outputs by contract name


class Checkpoint(Frozen):
    """A name of the zoo or a path, run in torch at the size of `preprocess`; `sha256` as `zoo.load` gives it."""

    name: str
    place: str
    sha256: str
    preprocess: Preprocess


Model = Artifact | Checkpoint


def fingerprint(model: Model) -> dict[str, object]:
    """The fields that decide a model's numbers, wherever its file lies."""
    kept: dict[str, object] = {"sha256": model.sha256, "preprocess": model.preprocess.model_dump(mode="json")}
    return kept | ({} if isinstance(model, Checkpoint) else {"format": model.format, "variant": model.variant})


def open_model(model: Model, threads: int | None) -> Run:
    """Load a model in this process; `threads` None leaves their number to the runtime.

    Raises:
        DataError: its file is not here, or not the one that the run was planned with.
        BackendMissing: its runtime is not here.
    """
    if isinstance(model, Checkpoint):
        return _torch(model, threads)
    require_same(model.path, model.sha256)
    return get_backend(model.format).runner(model, threads)


def require_same(path: Path, sha256: str) -> None:
    """Raises DataError where a file is missing or has another digest."""
    try:
        found = sha256_of(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read here",
            why=error.strerror or str(error),
            fix="every worker needs the artifact under the same path",
        ) from None
    if sha256 and found != sha256:
        raise DataError(
            f"{path} is another file here",
            why=f"SHA-256 {found[:12]}…, planned was {sha256[:12]}…",
            fix="copy the same file to every machine",
        )


def _torch(model: Checkpoint, threads: int | None) -> Run:
    import torch

    from edgekit.models import zoo

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = zoo.load(model.place)
    if loaded.sha256 != model.sha256:
        raise DataError(
            f"{model.place} is another checkpoint here",
            why=f"SHA-256 {loaded.sha256[:12]}…, planned was {model.sha256[:12]}…",
        )
    backbone = loaded.model.bake(*model.preprocess.input_size)

    @torch.inference_mode()
    def run(pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        outputs = backbone(torch.from_numpy(pixel_values))
        return {name: value.numpy() for name, value in zip(OUTPUT_NAMES, outputs, strict=False)}

    return run
