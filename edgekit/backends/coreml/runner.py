"""Runs a Core ML package: in Core ML on macOS, elsewhere by interpreting its program on the CPU."""

from __future__ import annotations

import platform
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgekit.artifact import IMAGE_NAME, Artifact
from edgekit.backends.base import runtime_errors
from edgekit.backends.coreml.interpreter.program import MilProgram
from edgekit.backends.coreml.package import function_of, read_batch, read_function_names
from edgekit.backends.coreml.tools import coremltools, quiet
from edgekit.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

INTERPRETED = "MIL program interpreted on CPU: proves graph, weights and quantization, not Apple's kernels or latency"


class Model(Protocol):
    """A loaded package, in Core ML or in the interpreter: inputs by name in, all outputs out."""

    def __call__(self, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        """Outputs by name; a picture is a PIL image."""
        ...


class CoreMlRunner:
    """A loaded package; takes as many images at a time as its shape allows, mostly one."""

    def __init__(self, artifact: Artifact, model: Model | None = None) -> None:
        """Load `artifact`, the function of its image size where the package has several; `model` replaces what runs it.

        Raises:
            DataError: the package is missing or damaged.
        """
        if not artifact.path.is_dir():
            raise DataError(f"{artifact.path} is missing", fix="edgekit export --format coreml --out OUT")
        self.artifact = artifact
        self.interpreted = model is None and platform.system() != "Darwin"
        self._input = artifact.inputs[0].name
        self._most = read_batch(artifact.path) if artifact.inputs[0].shape[0] == "batch" else 1
        self._model: Model = model or self._loaded()

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """Run pixels (B, 3, H, W) float32: every output of the artifact by name, float32.

        A package that takes images gets them from RGB 0..255.
        """
        parts = [pixel_values[i : i + self._most] for i in range(0, len(pixel_values), self._most)]
        with runtime_errors(f"{self.artifact.path} does not run"):
            rows = [self._model({self._input: self._fed(part)}) for part in parts]
        names = [spec.name for spec in self.artifact.outputs]
        return {name: np.concatenate([np.asarray(row[name], np.float32) for row in rows]) for name in names}

    def _loaded(self) -> Model:
        named = function_of(self.artifact.preprocess.input_size)
        function = named if named in read_function_names(self.artifact.path) else None
        return MilProgram(self.artifact.path, function) if self.interpreted else _Native(self.artifact.path, function)

    def _fed(self, pixels: np.ndarray) -> np.ndarray | Image:
        """Pixels (B, 3, H, W) as the input of the package: a picture in Core ML, float32 everywhere else."""
        if self._input != IMAGE_NAME:
            return np.ascontiguousarray(pixels, np.float32)
        whole = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        if self.interpreted:
            return whole.astype(np.float32)
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(whole[0].transpose(1, 2, 0)))


class _Native:
    """Core ML itself, on macOS; one call at a time, as Apple asks of users of an `MLModel`."""

    def __init__(self, path: Path, function: str | None) -> None:
        self._alone = threading.Lock()
        ct = coremltools()
        with quiet():
            self._model: Any = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.ALL, function_name=function)

    def __call__(self, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        with self._alone:
            result: dict[str, np.ndarray] = self._model.predict(inputs)
        return result
