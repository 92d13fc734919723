"""Keeps the finished blocks of a quantization run on disk, so that a killed run continues where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import DataError
from edgekit.files import unlink_sealed
from edgekit.plan.quant import QuantPlan

if TYPE_CHECKING:
    from torch import Tensor

    from edgekit.models.vit import VisionTransformer
    from edgekit.recipe import QuantizeRecipe

ENGINE = 9  # raised when the engine's arithmetic changes: unfinished runs of another engine are not continued


def run_digest(
    model: VisionTransformer, pixels: Iterable[Tensor], recipe: QuantizeRecipe, inputs: str, turned: bool
) -> str:
    """Digest of everything that decides a run: weights, batches of calibration pixels, recipe, rotation, engine."""
    decided = [ENGINE, inputs, turned, recipe.model_dump(mode="json")]
    total = hashlib.sha256(json.dumps(decided, sort_keys=True).encode())
    for key, value in model.state_dict().items():
        total.update(key.encode())
        total.update(value.contiguous().numpy().tobytes())
    for batch in pixels:
        total.update(repr(tuple(batch.shape[2:])).encode())
        total.update(batch.contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


class Saved:
    """The unfinished plan of one run: rewritten tensors so far and the GEMMs done."""

    def __init__(self, folder: Path | None, digest: str) -> None:
        """Keep nothing when `folder` is None."""
        self.path = None if folder is None else folder / f"unfinished-{digest}.safetensors"

    def read(self) -> QuantPlan | None:
        """The plan of an earlier run, or None; a file that cannot be read counts as none."""
        if self.path is None or not self.path.exists():
            return None
        try:
            return QuantPlan.load(self.path)
        except DataError:
            return None

    def write(self, plan: QuantPlan) -> None:
        """Replace the file atomically."""
        if self.path is not None:
            plan.save(self.path)

    def remove(self) -> None:
        """Delete the file of a finished run."""
        if self.path is not None:
            unlink_sealed(self.path)
