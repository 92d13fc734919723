"""Puts the official eval transform inside an IR: uint8 images of any size in, features out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op

from edgekit.artifact import IMAGE_NAME, Artifact, Preprocess, TensorSpec
from edgekit.backends.openvino.builder import constant, ints
from edgekit.backends.openvino.metadata import stamp
from edgekit.backends.openvino.runner import read_model
from edgekit.errors import ExportError
from edgekit.files import atomic_path, sha256_of, size_mb_of

_PILLOW_CUBIC = -0.5  # Pillow's bicubic coefficient; OpenVINO's default is -0.75


def embed_preprocessing(artifact: Artifact, path: Path) -> Artifact:
    """Write `artifact` again with `image` (B, height, width, 3) uint8 RGB, any height and width, as its input.

    Resize, crop and normalisation are those of `edgekit.images.preprocess`, step by step.

    Raises:
        ExportError: the artifact already takes images.
        DataError: its files are missing or damaged.
    """
    if artifact.inputs[0].name == IMAGE_NAME:
        raise ExportError(f"{artifact.path} already has its preprocessing inside")
    model = read_model(artifact.path)
    image = op.parameter([-1, -1, -1, 3], np.uint8, name=IMAGE_NAME)
    image.output(0).get_tensor().set_names({IMAGE_NAME})
    pixels = model.get_parameters()[0]
    pixels.output(0).replace(transformed(image.output(0), artifact.preprocess))
    model.add_parameters([image])
    model.remove_parameter(pixels)
    model.validate_nodes_and_infer_types()
    model.set_rt_info("True", ["model_info", "embedded_processing"])
    embedded = artifact.model_copy(
        update={
            "name": f"{artifact.name}_image",
            "inputs": (
                TensorSpec(name=IMAGE_NAME, dtype="uint8", shape=("batch", "height", "width", 3), layout="NHWC"),
            ),
            "preprocess": artifact.preprocess.model_copy(update={"normalize": "graph"}),
        }
    )
    stamp(model, embedded.model_dump(mode="json"))
    with atomic_path(path) as temporary:
        ov.save_model(model, temporary, compress_to_fp16=False)
    return embedded.model_copy(update={"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)})


def transformed(image: ov.Output, transform: Preprocess) -> ov.Output:
    """Preprocessing in the graph: (B, height, width, 3) uint8 -> (B, 3, H, W) float32 as the model wants it."""
    if transform.whole_image is not None:
        x = _interpolated(image, ints([*transform.input_size], "image.target"))
    else:
        x = _centre_crop(_resized(image, transform.resize, transform.input_size), transform.input_size)
    x = op.convert(x, "f32", name="image/float").output(0)
    if transform.normalize == "host":  # the model itself does not
        mean, std = (np.array(v, np.float32).reshape(1, 1, 1, 3) for v in (transform.mean, transform.std))
        x = op.divide(x, constant(np.float32(255), "image.unit"), name="image/unit").output(0)
        x = op.subtract(x, constant(mean, "image.mean"), name="image/centred").output(0)
        x = op.divide(x, constant(std, "image.std"), name="image/normalized").output(0)
    return op.transpose(x, ints([0, 3, 1, 2], "image.order"), name="image/planes").output(0)


def _sides(x: ov.Output, name: str) -> ov.Output:
    """Height and width of an image (B, height, width, 3) as an int64 vector."""
    shape = op.shape_of(x, name=f"{name}.shape")
    return op.gather(shape, ints([1, 2], f"{name}.sides_index"), ints(0, f"{name}.axis"), name=f"{name}.sides").output(
        0
    )


def _resized(image: ov.Output, edge: int, crop: tuple[int, int]) -> ov.Output:
    """Shortest edge to `edge` by Pillow's antialiased bicubic, longest rounded down; larger if the crop needs it."""
    sides = _sides(image, "image")
    shortest = op.reduce_min(sides, ints([0], "image.min_axis"), True, name="image.shortest")
    target = op.divide(op.multiply(sides, ints(edge, "image.edge"), name="image.scaled"), shortest, name="image.target")
    if crop[0] != crop[1]:  # a square crop is never longer than the shortest edge
        target = _covering(target.output(0), crop)
    return _interpolated(image, target)


def _interpolated(image: ov.Output, target: ov.Node | ov.Output) -> ov.Output:
    """The image (B, height, width, 3) by Pillow's antialiased bicubic at `target` (height, width)."""
    return op.interpolate(
        image,
        target,
        "bicubic_pillow",
        "sizes",
        cube_coeff=_PILLOW_CUBIC,
        axes=ints([1, 2], "image.resized_axes"),
        name="image/resized",
    ).output(0)


def _covering(sides: ov.Output, crop: tuple[int, int]) -> ov.Output:
    """`sides` enlarged in proportion until both reach the crop."""
    needed = constant(np.array(crop, np.float32), "cover.crop")
    given = op.convert(sides, "f32", name="cover.sides")
    lacking = op.divide(needed, given, name="cover.ratio")
    factor = op.reduce_max(lacking, ints([0], "cover.axis"), True, name="cover.largest")
    factor = op.maximum(factor, constant(np.float32(1), "cover.one"), name="cover.factor")
    enlarged = op.round(op.multiply(given, factor, name="cover.scaled"), "half_to_even", name="cover.rounded")
    return op.convert(op.maximum(enlarged, needed, name="cover.target"), "i64", name="cover.target_int").output(0)


def _centre_crop(x: ov.Output, crop: tuple[int, int]) -> ov.Output:
    """Crop about the centre; an odd margin is halved to the even side, as Python's `round` does in torchvision."""
    size = ints([*crop], "crop.size")
    margin = op.convert(op.subtract(_sides(x, "crop"), size, name="crop.margin"), "f32", name="crop.margin_float")
    half = op.multiply(margin, constant(np.float32(0.5), "crop.half"), name="crop.half_margin")
    start = op.convert(op.round(half, "half_to_even", name="crop.rounded"), "i64", name="crop.start")
    stop = op.add(start, size, name="crop.stop")
    x = op.slice(x, start, stop, ints([1, 1], "crop.step"), ints([1, 2], "crop.axes"), name="image/crop").output(0)
    return op.reshape(x, ints([0, *crop, 3], "crop.shape"), True, name="image/cropped").output(0)
