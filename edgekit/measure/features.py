"""Features of a set of images as a model puts them out: class token, registers and patch tokens, kept apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgekit.artifact import OUTPUT_NAMES
from edgekit.backends.base import Runner
from edgekit.errors import DataError
from edgekit.progress import Progress


@dataclass(frozen=True)
class Features:
    """`tokens` (n, 1 + R + P, D) float32 after the final norm: class token, R registers, P = rows * columns patches.

    `heads` holds what the file's heads put out, (n, ...) by name. `groups` names the photograph that each image shows
    a part of; it is empty where every image is a photograph of its own.
    """

    tokens: np.ndarray
    grid: tuple[int, int]  # (rows, columns) of patches
    names: tuple[str, ...]  # one per image
    heads: Mapping[str, np.ndarray] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    patch: int = 14  # pixels along the edge of one

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def registers(self) -> int:
        """Register tokens between the class token and the patches."""
        return int(self.tokens.shape[1]) - 1 - self.grid[0] * self.grid[1]

    @property
    def cls(self) -> np.ndarray:
        """Class tokens (n, D)."""
        return self.tokens[:, 0]

    @property
    def patches(self) -> np.ndarray:
        """Patch tokens (n, P, D)."""
        return self.tokens[:, 1 + self.registers :]


def features_of(
    runner: Runner,
    pixel_values: np.ndarray,
    batch: int = 1,
    *,
    patch: int,
    names: Sequence[str] | None = None,
    groups: Sequence[str] = (),
    progress: Progress | None = None,
) -> Features:
    """Run all images through a model.

    Args:
        runner: any loaded artifact, or a callable that returns `last_hidden_state`.
        pixel_values: (n, 3, H, W) float32, preprocessed as the artifact's `preprocess` says.
        batch: images per call; 1 suits files with a fixed batch.
        patch: pixels along the edge of one, as the artifact's `preprocess` says.
        names: of the images, for the per-image table; numbers when not given.
        groups: photograph of each image, for the intervals; each its own when not given.
        progress: told (done, total) after each batch.

    Raises:
        DataError: no image, or the number of tokens does not fit the image size.
    """
    if len(pixel_values) == 0:
        raise DataError("no images to measure on", fix="--eval DIR")
    height, width = pixel_values.shape[-2:]
    grid = (height // patch, width // patch)
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(pixel_values), batch):
        for name, value in runner(pixel_values[start : start + batch]).items():
            if name == OUTPUT_NAMES[0] or name not in OUTPUT_NAMES:
                parts.setdefault(name, []).append(np.asarray(value, dtype=np.float32))
        if progress:
            progress(min(start + batch, len(pixel_values)), len(pixel_values))
    heads = {name: np.concatenate(values) for name, values in parts.items()}
    tokens = heads.pop(OUTPUT_NAMES[0])
    if tokens.shape[1] < 1 + grid[0] * grid[1]:
        raise DataError(
            f"a model put out {tokens.shape[1]} tokens for an image of {height} x {width} pixels",
            why=f"1 + {grid[0]} * {grid[1]} or more are needed",
        )
    named = tuple(names) if names else tuple(str(i) for i in range(len(tokens)))
    return Features(tokens, grid, named, heads, tuple(groups), patch)
