"""Makes the files that take uint8 images, where a format can hold the preprocessing."""

from __future__ import annotations

import numpy as np

from edgekit.artifact import Artifact
from edgekit.backends import LoadedModel, get_backend
from edgekit.errors import ExportError
from edgekit.metrics import cosine
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.jobs import Job, exporter_of

NOTE = "takes uint8 images; drift and latency of the network are those of the file without the transform"
_LEAST_COSINE = 0.9999  # with the features of host preprocessing; what differs is rounding in the resize
_PROBE = (321, 417)  # height and width of the image that both are compared on: odd margins, another ratio


def make_image_input(job: Job, context: BuildContext) -> Artifact:
    """Write the job's plain sibling again with an image as its input, and compare both on one image.

    Raises:
        DataError: the sibling is not there, since its own export failed.
        ExportError: the features differ from those of host preprocessing, or the patch embedding is of integers.
    """
    path = context.out / job.path
    sibling = get_backend(job.format).read(context.out / job.path.replace("_image", ""))
    backend = exporter_of(job, context.recipe)
    artifact = backend.with_image_input(sibling, context.source(job), path)
    least = _agreement(sibling, artifact)
    if not least >= _LEAST_COSINE:
        raise ExportError(
            f"the file that takes images reaches a cosine of {least:.6f} only",
            why=f"{_LEAST_COSINE} is expected of the same image prepared on the host",
        )
    return artifact.model_copy(update={"notes": (*artifact.notes, NOTE)})


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
