"""Runs a `.edgekit` artifact in libedgekit, with numpy alone."""

from __future__ import annotations

import numpy as np

from edgekit.artifact import Artifact
from edgekit.errors import DataError
from edgekit.host import usable_cores
from edgekit.native.model import NativeContext, NativeModel


class EdgekitRunner:
    """One opened model. Each caller at a time has a context of its own, which is kept for the next."""

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        """Load `artifact`; None takes as many threads as there are processors for this process.

        Raises:
            BackendMissing: the native library is not here.
            DataError: the file is missing or damaged, or has other outputs than the contract.
        """
        self.artifact = artifact
        self._threads = threads or usable_cores()
        self._model = NativeModel(artifact.path)
        self._idle: list[NativeContext] = [self._model.context(self._threads)]
        names, wanted = self._model.outputs, [spec.name for spec in artifact.outputs]
        if names != wanted:
            raise DataError(
                f"{artifact.path} has outputs {', '.join(names)}, not {', '.join(wanted)}",
                fix="edgekit export --out OUT --format edgekit",
            )

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """Every output of the artifact by name, float32, of pixels (B, 3, H, W) float32."""
        try:
            context = self._idle.pop()  # of one list: atomic
        except IndexError:
            context = self._model.context(self._threads)
        try:
            return context.run(pixel_values)
        finally:
            self._idle.append(context)
