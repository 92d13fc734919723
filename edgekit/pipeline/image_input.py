"""Makes the OpenVINO file that takes uint8 images of any size: a finished artifact with the transform in front."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.artifact import Artifact
from edgekit.backends import get_backend
from edgekit.errors import ExportError
from edgekit.golden import cosine
from edgekit.pipeline.jobs import Job
from edgekit.pipeline.materials import Materials

if TYPE_CHECKING:
    from edgekit.backends.openvino import OpenVinoBackend

NOTE = "takes uint8 images; drift and latency of the network are those of the file without the transform"
_LEAST_COSINE = 0.9999  # with the features of host preprocessing; what differs is rounding in the resize
_PROBE = (321, 417)  # height and width of the image that both are compared on: odd margins, another ratio


def make_image_input(job: Job, materials: Materials) -> Artifact:
    """Embed the transform into the job's plain sibling and compare both on one image.

    Raises:
        DataError: the sibling is not there, since its own export failed.
        ExportError: the features differ from those of host preprocessing.
    """
    from edgekit.backends.openvino_preprocess import embed_preprocessing

    backend = get_backend("openvino")
    sibling = backend.read(materials.out / job.path.replace("_image", ""))
    artifact = embed_preprocessing(sibling, materials.out / job.path)
    least = _agreement(sibling, artifact, backend)  # type: ignore[arg-type]
    if not least >= _LEAST_COSINE:
        artifact.path.unlink()
        artifact.path.with_suffix(".bin").unlink()
        raise ExportError(f"the embedded transform reaches a cosine of {least:.6f} only",
                          why=f"{_LEAST_COSINE} is expected of the same image prepared on the host")  # fmt: skip
    return artifact.model_copy(update={"notes": (*artifact.notes, NOTE)})


def _agreement(sibling: Artifact, embedded: Artifact, backend: OpenVinoBackend) -> float:
    """Cosine of the pooled features of a smooth random picture, prepared on the host and in the graph."""
    from PIL import Image

    from edgekit.images import preprocess

    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    picture = Image.fromarray(small).resize(_PROBE[::-1], Image.Resampling.BICUBIC)
    expected = backend.runner(sibling)(preprocess(picture, sibling.preprocess)[None])
    actual = backend.runner(embedded)(np.asarray(picture)[None])
    return float(cosine(actual["pooler_output"], expected["pooler_output"]).min())
