"""Turns a Core ML package of RGB 0..255 into one that takes a picture: what Vision and a camera hand over."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgekit.artifact import IMAGE_NAME, INPUT_NAME, Artifact, TensorSpec
from edgekit.backends.coreml.package import SPEC
from edgekit.backends.coreml.tools import coremltools
from edgekit.backends.metadata import MANIFEST_KEY, manifest_text
from edgekit.errors import ExportError
from edgekit.files import atomic_path, sha256_of, size_mb_of


def take_images(artifact: Artifact, path: Path) -> Artifact:
    """Write `artifact` again with an image (RGB, of its size) as its input; weights and program stay the same.

    Raises:
        ExportError: the artifact normalises no pixels itself, or already takes images.
    """
    if artifact.inputs[0].name == IMAGE_NAME:
        raise ExportError(f"{artifact.path} already takes images")
    if artifact.preprocess.normalize != "graph":
        raise ExportError(
            f"{artifact.path} wants normalised pixels, which a picture does not hold",
            fix='normalize = "graph" in the recipe',
        )
    height, width = artifact.preprocess.input_size
    given = artifact.model_copy(
        update={
            "name": f"{artifact.name}_image",
            "inputs": (TensorSpec(name=IMAGE_NAME, dtype="uint8", shape=(1, height, width, 3), layout="NHWC"),),
        }
    )
    with atomic_path(path) as temporary:
        shutil.copytree(artifact.path, temporary)
        _retype(temporary / SPEC, manifest_text(given.model_dump(mode="json")), height, width)
    return given.model_copy(update={"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)})


def _retype(file: Path, manifest: str, height: int, width: int) -> None:
    """Rename the input of the program, and say that it is an image."""
    ct = coremltools()
    from coremltools.proto import FeatureTypes_pb2, Model_pb2

    spec = Model_pb2.Model.FromString(file.read_bytes())
    ct.utils.rename_feature(spec, INPUT_NAME, IMAGE_NAME, rename_outputs=False)
    image = spec.description.input[0].type.imageType
    image.height, image.width = height, width
    image.colorSpace = FeatureTypes_pb2.ImageFeatureType.RGB
    spec.description.metadata.userDefined[MANIFEST_KEY] = manifest
    file.write_bytes(spec.SerializeToString(deterministic=True))
