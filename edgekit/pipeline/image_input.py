"""Makes the files that take uint8 images: of any size in OpenVINO, of the model's size in Core ML."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.artifact import Artifact
from edgekit.backends import Backend, LoadedModel, get_backend
from edgekit.backends.base import ExportSource
from edgekit.errors import ExportError
from edgekit.metrics import cosine
from edgekit.pipeline.context import Materials
from edgekit.pipeline.jobs import Job, exporter_of
from edgekit.surgery import restore

NOTE = "takes uint8 images; drift and latency of the network are those of the file without the transform"
_LEAST_COSINE = 0.9999  # with the features of host preprocessing; what differs is rounding in the resize
_PROBE = (321, 417)  # height and width of the image that both are compared on: odd margins, another ratio


def make_image_input(job: Job, materials: Materials) -> Artifact:
    """Write the job's plain sibling again with an image as its input, and compare both on one image.

    Raises:
        DataError: the sibling is not there, since its own export failed.
        ExportError: the features differ from those of host preprocessing, or the patch embedding is of integers.
    """
    sibling, path = (
        get_backend(job.format).read(materials.out / job.path.replace("_image", "")),
        materials.out / job.path,
    )
    if job.format == "coreml":
        backend = exporter_of(job, materials.recipe)
        artifact = _with_picture_input(job, rgb_source(materials.source(job)), backend, path)
    else:
        from edgekit.backends.openvino.preprocess import embed_preprocessing

        artifact = embed_preprocessing(sibling, path)
    least = _agreement(sibling, artifact)
    if not least >= _LEAST_COSINE:
        raise ExportError(
            f"the file that takes images reaches a cosine of {least:.6f} only",
            why=f"{_LEAST_COSINE} is expected of the same image prepared on the host",
        )
    return artifact.model_copy(update={"notes": (*artifact.notes, NOTE)})


def rgb_source(source: ExportSource) -> ExportSource:
    """The same model, its plan included, with ImageNet's normalisation folded into the patch embedding: exact.

    Raises:
        ExportError: the patch embedding of the plan is of integers, which stand for normalised pixels.
    """
    from edgekit.surgery import state_of
    from edgekit.surgery.fold_normalization import fold_normalization

    given, plan = source.preprocess, source.plan
    if given.normalize == "graph":
        return source
    if plan is not None and "patch_embed.proj" in plan.gemms:
        raise ExportError(
            "the plan's patch embedding is of integers, normalisation cannot be folded into it",
            fix='patch_embed = "float" in the recipe',
        )
    model = deepcopy(source.model)
    fold_normalization(model, given.mean, given.std)
    if plan is not None:
        rewritten = restore(plan.config, plan.float_tensors)
        fold_normalization(rewritten, given.mean, given.std)
        plan = replace(plan, float_tensors=state_of(rewritten))
    preprocess = given.model_copy(update={"normalize": "graph"})
    return replace(source, model=model, plan=plan, preprocess=preprocess)


def _with_picture_input(job: Job, source: ExportSource, backend: Backend, path: Path) -> Artifact:
    from edgekit.backends.coreml.image import take_images

    with tempfile.TemporaryDirectory() as folder:
        plain = backend.export(source, job.precision, job.variant, Path(folder) / path.name)
        return take_images(plain, path)


def _agreement(sibling: Artifact, taking_images: Artifact) -> float:
    """Cosine of the pooled features of a smooth random picture, given to both."""
    from PIL import Image

    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    picture = Image.fromarray(small).resize(_PROBE[::-1], Image.Resampling.BICUBIC)
    expected, actual = (
        LoadedModel(get_backend(artifact.format).runner(artifact), "compared")(picture)["pooler_output"]
        for artifact in (sibling, taking_images)
    )
    return float(cosine(actual, expected).min())
