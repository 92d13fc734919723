"""Opens any artifact or build folder as a model that takes pictures, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from edgekit.artifact import IMAGE_NAME, Artifact, ArtifactRow, Format, Manifest, Precision, Variant
from edgekit.backends.base import Runner
from edgekit.errors import BackendMissing, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = Image | Path | str | np.ndarray

_KINDS: tuple[tuple[Precision, Variant], ...] = (
    ("w8a8", "fused"),
    ("w8a8", "standard"),
    ("w8", "standard"),
    ("w4a8", "standard"),
    ("w4", "standard"),
    ("fp32", "fused"),
    ("fp32", "standard"),
    ("fp16", "standard"),
    ("w8a8", "composite"),
    ("fp32", "composite"),
    ("fp16", "composite"),
)
"""Fastest first, on CPUs in general; what this very machine prefers is in the build's report."""

_FORMATS: tuple[Format, ...] = ("onnx", "openvino", "tflite", "coreml")
_SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".xml": "openvino", ".tflite": "tflite", ".mlpackage": "coreml"}


@dataclass(frozen=True)
class LoadedModel:
    """A runner that also takes pictures, and says why it was chosen.

    `reason` is one sentence; `passed_over` names each better artifact of the folder and why it cannot run here.
    """

    runner: Runner
    reason: str
    passed_over: tuple[tuple[str, str], ...] = ()

    @property
    def artifact(self) -> Artifact:
        """What is being run."""
        return self.runner.artifact

    def __call__(self, images: Picture | Sequence[Picture]) -> dict[str, np.ndarray]:
        """`last_hidden_state` (B, N, D), `pooler_output` (B, D), and what the artifact's heads put out.

        Args:
            images: one picture or several (PIL image, path, or RGB uint8 array (H, W, 3)), which are preprocessed as
                the artifact says; or `pixel_values`, a float32 array (B, 3, H, W), which is taken as it is.

        Raises:
            DataError: an array of another shape or type, or a picture that cannot be read.
        """
        given = self.artifact.inputs[0]
        takes_images = given.name == IMAGE_NAME and "height" in given.shape  # the file resizes by itself
        if isinstance(images, np.ndarray) and images.dtype == np.float32 and not takes_images:
            return self.runner(self._checked(images))
        several = isinstance(images, Sequence) and not isinstance(images, str)
        several |= isinstance(images, np.ndarray) and images.ndim == 4
        pictures = cast("Sequence[Picture]", images if several else [images])
        if takes_images:
            each = [self.runner(np.asarray(_rgb(picture))[None]) for picture in pictures]
            return {name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]}
        return self.runner(np.stack([_prepare(picture, self.artifact) for picture in pictures]))

    def _checked(self, pixel_values: np.ndarray) -> np.ndarray:
        wanted = (3, *self.artifact.preprocess.input_size)
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != wanted:
            raise DataError(
                f"pixel_values has shape {pixel_values.shape}", why=f"{self.artifact.name} takes (B, {wanted})"
            )
        return pixel_values


def load(path: Path | str, threads: int | None = None) -> LoadedModel:
    """Open an artifact file, or the best artifact of a build folder that runs on this machine.

    Args:
        path: `OUT`, `OUT/onnx/model_w8a8.onnx`, or any `.onnx` that edgekit wrote.
        threads: None lets the runtime choose.

    Raises:
        DataError: not an artifact or build folder, or damaged.
        BackendMissing: nothing in it runs here; each reason is given.
    """
    path = Path(path)
    if path.is_dir() and path.suffix not in _SUFFIXES:
        return _load_best(path, threads)
    artifact = artifact_at(path)
    from edgekit.backends import get_backend

    return LoadedModel(get_backend(artifact.format).runner(artifact, threads), f"{path.name} was asked for")


def artifact_of(row: ArtifactRow, manifest: Manifest, folder: Path) -> Artifact:
    """The artifact that a row of OUT/manifest.json describes.

    Raises:
        DataError: the row stands for an artifact that was not made.
    """
    if row.status != "ok" or row.path is None or row.preprocess is None:
        raise DataError(f"{row.name} was not built ({row.status})", why=row.reason, fix=f"edgekit build --out {folder}")
    kept = row.model_dump(include={"name", "format", "precision", "variant", "inputs", "outputs", "notes", "tools"})
    return Artifact(
        **kept,
        path=folder / row.path,
        preprocess=row.preprocess,
        sha256=row.sha256 or "",
        size_mb=row.size_mb or 0.0,
        recipe_digest=manifest.recipe_digest,
        parent_sha256=str(manifest.model.get("sha256", "")),
    )


def _load_best(folder: Path, threads: int | None) -> LoadedModel:
    from edgekit.backends import get_backend

    manifest = Manifest.read(folder)
    made = [row for row in manifest.artifacts if row.status == "ok" and (row.precision, row.variant) in _KINDS]
    chosen = manifest.choice.artifact if manifest.choice else None
    made.sort(key=lambda row: (row.name != chosen, *_rank(row)))
    passed_over: list[tuple[str, str]] = []
    for row in made:
        try:
            runner = get_backend(row.format).runner(artifact_of(row, manifest, folder), threads)
        except BackendMissing as missing:
            passed_over.append((row.name, str(missing)))
        else:
            reason = f"{row.name} is the first of {len(made)} artifacts, fastest kind first, that runs here"
            if row.name == chosen:
                reason = f"{row.name} was chosen by measurement"
            return LoadedModel(runner, reason, tuple(passed_over))
    raise BackendMissing(
        f"no artifact of {folder} runs here",
        why="; ".join(f"{n}: {why}" for n, why in passed_over),
        fix="edgekit doctor",
    )


def _rank(row: ArtifactRow) -> tuple[bool, int, int]:
    """Place in the order of trial; what NNCF quantized was made to be compared with and comes last."""
    return "nncf" in row.tools, _KINDS.index((row.precision, row.variant)), _FORMATS.index(row.format)


def artifact_at(path: Path) -> Artifact:
    """From the manifest of the build folder around `path`, else from what the file says of itself."""
    if path.suffix not in _SUFFIXES:
        raise DataError(
            f"{path} is no artifact", why="known are " + ", ".join(_SUFFIXES), fix="edgekit build --out OUT"
        )
    if not path.exists():
        raise DataError(f"{path} does not exist", fix="edgekit build --out OUT")
    for folder in path.resolve().parents[:2]:
        if (folder / "manifest.json").is_file():
            manifest = Manifest.read(folder)
            for row in manifest.artifacts:
                if row.path is not None and (folder / row.path).resolve() == path.resolve():
                    return artifact_of(row, manifest, folder)
    from edgekit.backends import get_backend

    return get_backend(_SUFFIXES[path.suffix]).read(path)


def _prepare(picture: Picture, artifact: Artifact) -> np.ndarray:
    """(3, H, W) float32."""
    from edgekit.images import preprocess

    return preprocess(_rgb(picture), artifact.preprocess)


def _rgb(picture: Picture) -> Image:
    """The picture as RGB."""
    from PIL import Image

    from edgekit.images import read_image

    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise DataError(
                f"an array of {picture.dtype} and shape {picture.shape} is no picture",
                why="wanted is RGB uint8 (H, W, 3), or float32 pixel_values (B, 3, H, W)",
            )
        return Image.fromarray(picture)
    return read_image(Path(picture)) if isinstance(picture, str | Path) else picture.convert("RGB")
