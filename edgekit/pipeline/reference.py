"""The reference of a build: features and golden files of the float model, which artifacts are compared with."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import numpy as np

from edgekit.errors import DataError
from edgekit.files import sealed
from edgekit.measure.accuracy import AccuracyJudge
from edgekit.measure.features import Features, features_of
from edgekit.measure.golden import (
    FOLDER,
    SIZES,
    golden_files,
    golden_sizes,
    read_golden,
    read_golden_sizes,
    write_golden,
    write_golden_sizes,
)
from edgekit.pipeline.inputs import BuildInputs
from edgekit.pipeline.jobs import Job, Size

_BATCH = 8
_GOLDEN_IMAGES = 4


class Reference:
    """Outputs of the float model on the evaluation images; none is computed twice."""

    def __init__(self, inputs: BuildInputs) -> None:
        self._inputs = inputs
        self.features = cache(self._features)
        self.judge = cache(self._judge)
        self.few = cache(self._few)

    def write_golden(self, out: Path, job: Job) -> None:
        """Write the golden files of the job's image size, unless they are there and of these very images."""
        import torch

        home = golden_home(out, job)
        if job.sides:
            self._write_golden_sizes(home, job)
        pixels = self._inputs.evaluation(job.size).pixel_values[:_GOLDEN_IMAGES]
        if not any(sealed(file) for file in golden_files(home)):
            try:
                if np.array_equal(read_golden(home)[0], pixels):
                    return
            except DataError:
                pass
        with torch.no_grad():
            hidden, pooled = self._inputs.model(job.size)(torch.from_numpy(pixels))
        write_golden(home, pixels, {"last_hidden_state": hidden.numpy(), "pooler_output": pooled.numpy()})

    def _write_golden_sizes(self, home: Path, job: Job) -> None:
        """Write a golden image of three shapes, unless they are there."""
        sizes = golden_sizes(self._inputs.transform(job))
        if not sealed(home / FOLDER / SIZES) and {*read_golden_sizes(home)} == {*sizes}:
            return
        found = {size: self.few(size) for size in sizes}
        write_golden_sizes(home, {size: (pixels[:1], tokens[:1, 0]) for size, (pixels, tokens) in found.items()})

    def _features(self, size: Size) -> Features:
        """Features on the evaluation images, and what the heads make of them."""
        from edgekit.graph.torch_emitter import run_with_heads

        images = self._inputs.evaluation(size)
        return features_of(
            partial(run_with_heads, self._inputs.model(size), self._inputs.heads),  # type: ignore[arg-type]
            images.pixel_values,
            _BATCH,  # type: ignore[arg-type]
            patch=images.preprocess.patch,
            names=images.paths,
            groups=images.groups,
            progress=lambda done, total: self._inputs.watcher.stage("reference features", done, total),
        )

    def _few(self, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (n, 3, H, W) at a size that is only looked at, and the tokens (n, N, D) behind the final norm."""
        import torch

        pixels = self._inputs.few(size).pixel_values
        self._inputs.watcher.stage(f"reference features at {size[0]}x{size[1]}")
        with torch.no_grad():
            tokens = [self._inputs.model(None)(image)[0].numpy() for image in torch.from_numpy(pixels).split(1)]
        return pixels, np.concatenate(tokens)

    def _judge(self, size: Size) -> AccuracyJudge | None:
        """Task accuracy of the float model, where the evaluation images are labelled."""
        labels = self._inputs.evaluation(size).labels
        return AccuracyJudge(self.features(size), labels, seed=self._inputs.recipe.seed) if labels else None


def golden_home(out: Path, job: Job) -> Path:
    """The folder that holds `golden/` for a job's image size: OUT itself for the main one."""
    return out / job.suffix.removeprefix("_") if job.suffix and not job.sides else out
