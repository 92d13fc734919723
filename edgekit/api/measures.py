"""`edgekit.drift`, `bench` and `embed`: what a model loses, costs and sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from edgekit.api.arguments import baked, image_set_of
from edgekit.artifact import OUTPUT_NAMES, Preprocess
from edgekit.backends import LoadedModel, load
from edgekit.backends.registry import format_of_suffix
from edgekit.errors import DataError
from edgekit.measure.accuracy import AccuracyJudge
from edgekit.measure.drift import DriftReport, OnTasks, measure_drift
from edgekit.measure.features import Features, features_of
from edgekit.models.live import is_module
from edgekit.models.zoo import path_of
from edgekit.plan.quant import QuantPlan
from edgekit.shards.embedding import Tokens
from edgekit.workflows.compare import artifacts_in, latency_of
from edgekit.workflows.embed import Embeddings, embed_images

if TYPE_CHECKING:
    from torch.nn import Module

    from edgekit.backends.pictures import Picture
    from edgekit.images.sets import ImageSet
    from edgekit.measure.latency import LatencyRun
    from edgekit.models.vit import VisionTransformer

_USUAL = (224, 224)  # pixels, where neither side of a comparison has a size


@dataclass(frozen=True)
class _Side:
    """One of two models that are compared: its name, how pictures become its input, and what runs it."""

    name: str
    transform: Preprocess
    run: Callable[[np.ndarray], dict[str, np.ndarray]]

    def features(self, images: ImageSet) -> Features:
        """Features of the images, their photographs kept apart."""
        return features_of(
            self.run,  # type: ignore[arg-type]
            images.pixel_values,
            patch=self.transform.patch,
            names=images.paths,
            groups=images.groups,
        )


def drift(
    reference: str | Path | LoadedModel | QuantPlan | Module,
    candidate: str | Path | LoadedModel | QuantPlan | Module,
    images: str | Path | Sequence[Picture] = "demo",
    *,
    samples: int | None = 32,
    seed: int = 0,
) -> DriftReport:
    """Distance of the candidate's features from the reference's, image by image: cosines, SQNR and neighbours.

    Each of the two is an artifact, a build folder (its best artifact), a loaded model, a quantization plan (run in
    exact integers), a checkpoint or name of `edgekit models`, or a live torch module. Those without an image size of
    their own take the other's, or 224 pixels.

    Args:
        reference: the true features, FP32 as a rule.
        candidate: compared with them.
        images: that neither was calibrated on: a folder, "demo", or pictures.
        samples: at most this many of them.
        seed: of their draw from a folder, and of the intervals.

    Raises:
        DataError: no images, or two models that take images of different sizes.
        BackendMissing: a runtime is missing.

    Examples:
        >>> import edgekit
        >>> report = edgekit.drift("OUT/onnx/model.onnx", "OUT/onnx/model_w8a8.onnx", "photos", samples=8)
        >>> report.n, report.cls_cosine.mean > 0.99
        (8, True)
    """
    sized = [_sized(each) for each in (reference, candidate)]
    size = next((side.transform.input_size for side in sized if side), _USUAL)
    before, after = (
        side or _float(cast("str | Path | Module", each), size)
        for side, each in zip(sized, (reference, candidate), strict=True)
    )
    if before.transform.input_size != after.transform.input_size:
        raise DataError(
            f"{after.name} takes {after.transform.input_size} pixels, {before.name} {before.transform.input_size}",
            fix="compare two of one image size",
        )
    shown = image_set_of(images, before.transform, samples=samples, seed=seed, split="evaluation")
    same = after.transform == before.transform
    other = shown if same else image_set_of(images, after.transform, samples=samples, seed=seed, split="evaluation")
    expected, found = before.features(shown), after.features(other)
    judge = AccuracyJudge(expected, shown.labels, seed=seed) if shown.labels else None
    return measure_drift(
        expected,
        found,
        reference_name=before.name,
        candidate_name=after.name,
        seed=seed,
        on_tasks=OnTasks(accuracy=judge.measure(found) if judge else ()),
    )


def _sized(model: object) -> _Side | None:
    """The side of a model that has an image size; None of one in torch that takes any."""
    if isinstance(model, QuantPlan):
        from edgekit.quantization.simulate import simulate

        return _Side("plan", model.config.preprocess(*model.image_size), _in_torch(simulate(model)))
    if is_module(model) or (isinstance(model, str | Path) and _is_checkpoint(model)):
        return None
    loaded = model if isinstance(model, LoadedModel) else load(cast("str | Path", model))
    return _Side(loaded.artifact.name, loaded.artifact.preprocess, loaded.runner)


def _is_checkpoint(model: str | Path) -> bool:
    """Whether a name or path is a model to be loaded in torch, and no artifact or build folder."""
    path = path_of(model)
    return path is None or not (format_of_suffix(path.suffix) or (path / "manifest.json").is_file())


def _float(model: str | Path | Module, size: tuple[int, int]) -> _Side:
    """The side of a float model in torch."""
    network, transform = baked(model, size)
    name = Path(model).name if isinstance(model, str | Path) else type(model).__name__
    return _Side(name, transform, _in_torch(network))


def _in_torch(network: VisionTransformer) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A runner around a module."""
    import torch

    @torch.inference_mode()
    def run(pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        outputs = network(torch.from_numpy(pixel_values))
        return {name: value.numpy() for name, value in zip(OUTPUT_NAMES, outputs, strict=True)}

    return run


def bench(
    *models: str | Path | LoadedModel, threads: int | None = None, batch: int = 1, rounds: int = 10, seed: int = 0
) -> LatencyRun:
    """Latency, throughput and memory of artifacts on this machine, each in its own process, measured in turns.

    Args:
        *models: artifacts, build folders (all their artifacts), or loaded models, of one image size.
        threads: of each runtime; None lets it choose.
        batch: images per call.
        rounds: how often each is visited, at least 3.
        seed: of the order of turns.

    Raises:
        DataError: no artifact.
        EdgekitError: the artifacts take images of different sizes.

    Examples:
        >>> import edgekit
        >>> run = edgekit.bench("OUT/onnx/model.onnx", "OUT/onnx/model_w8a8.onnx", rounds=3, threads=1)
        >>> sorted(run.reports)
        ['onnx/fp32', 'onnx/w8a8']
        >>> run.reports["onnx/w8a8"].speedup.reference
        'onnx/fp32'
    """
    found = [
        artifact
        for model in models
        for artifact in ((model.artifact,) if isinstance(model, LoadedModel) else artifacts_in(Path(model)))
    ]
    if not found:
        raise DataError("nothing to time was given", fix='edgekit.bench("OUT")')
    return latency_of(found, batch=batch, threads=threads, rounds=rounds, seed=seed)


def embed(
    model: str | Path | LoadedModel,
    images: str | Path | Sequence[Picture],
    *,
    tokens: Tokens = "cls",
    samples: int | None = None,
    batch: int = 1,
    threads: int | None = None,
) -> Embeddings:
    """Features of images as an array, with the names and labels of its rows; needs no torch.

    Args:
        model: an artifact, a build folder (its best artifact that runs here), or a loaded model.
        images: a folder, "demo", or pictures.
        tokens: "cls" (n, D), "patches" (n, rows, columns, D) or "all" (n, 1 + R + P, D).
        samples: at most this many images; None takes all.
        batch: images per call.
        threads: of the runtime, where it is opened here; None leaves it to it.

    Raises:
        DataError: no artifact, or no image that can be read.
        BackendMissing: no runtime for it is here.

    Examples:
        >>> import edgekit
        >>> found = edgekit.embed("OUT", "photos")
        >>> found.features.shape, found.paths[0]
        ((12, 128), '000.png')
    """
    loaded = model if isinstance(model, LoadedModel) else load(model, threads)
    shown = image_set_of(images, loaded.artifact.preprocess, samples=samples, split="evaluation")
    return embed_images(loaded, shown, tokens=tokens, batch=batch)
