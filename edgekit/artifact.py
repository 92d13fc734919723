"""Artifacts: exported model files with everything needed to run them rightly, and the table of their formats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from edgekit.errors import DataError
from edgekit.precision import Arithmetic, Precision, Variant


@dataclass(frozen=True)
class FormatRow:
    """One file format: its backend, and the packages that write and run its files."""

    backend: str  # "module:class", the module relative to `edgekit.backends`
    distributions: tuple[str, ...]  # whose versions decide the bytes of a file


FORMATS: dict[str, FormatRow] = {
    "onnx": FormatRow(".onnx.backend:OnnxBackend", ("onnx", "onnx-ir", "onnxruntime")),
    "openvino": FormatRow(".openvino.backend:OpenVinoBackend", ("openvino",)),
    "coreml": FormatRow(".coreml.backend:CoreMlBackend", ("coremltools",)),
    "tflite": FormatRow(".tflite.backend:TfliteBackend", ("ai-edge-litert",)),
    "edgekit": FormatRow(".edgekit.backend:EdgekitBackend", ("safetensors",)),
}
"""The table of formats. The first is the default, and its FP32 file the reference where there are several."""


def _known(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"{name!r} is no format, known are {', '.join(FORMATS)}")
    return name


Format = Annotated[str, AfterValidator(_known)]
"""A name of `FORMATS`."""
Normalize = Literal["host", "graph"]  # who subtracts the mean and divides by the standard deviation of pixels
SizeRule = Literal["lower_bound", "minimal"]

INPUT_NAME = "pixel_values"
IMAGE_NAME = "image"  # of a file that takes uint8 RGB (B, height, width, 3): of any size, if it resizes by itself
OUTPUT_NAMES = ("last_hidden_state", "pooler_output")

MOST_SIDE = 16_384  # pixels of an image as a model sees it
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SATELLITE_MEAN = (0.430, 0.411, 0.296)  # of SAT-493M, on which two models of DINOv3 were trained
SATELLITE_STD = (0.213, 0.156, 0.143)


class Frozen(BaseModel):
    """Base of the immutable records: unknown keys are errors, JSON round-trips exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Ran(Frozen):
    """Base of what is run, with an arithmetic; only one that is left to the runtime stands in files and manifests."""

    arithmetic: Arithmetic = "plan"

    @model_serializer(mode="wrap")
    def _without_usual_arithmetic(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files and manifests keep their bytes."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key != "arithmetic" or value != "plan"}


class TensorSpec(Frozen):
    """Name, dtype and shape of one input or output; a symbolic dimension is a string such as "batch".

    `classes` names the channels of a classifier's output, where the names are known. `task` is that of a head's output,
    see `edgekit.graph.heads.Task`: "depth" is in metres, "relative depth" an inverse depth without unit.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    layout: str = ""
    classes: tuple[str, ...] = ()
    task: str = ""

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files of models without heads keep their bytes."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key not in ("classes", "task") or value}


_Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
_Mean = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
_Deviation = Annotated[float, Field(ge=1e-4, le=10_000, allow_inf_nan=False)]  # pixels are divided by it


class WholeImage(Frozen):
    """The published size of photographs that are resized whole, in the words of transformers' DPTImageProcessor.

    `rule` chooses the scale where the aspect is kept: "lower_bound" takes the larger of both sides' scales, so that no
    side falls below `size` (depth_anything_v2/util/transform.py); "minimal" the one that is nearer to 1 (transformers).
    They differ for photographs that are smaller than `size` on a side.
    """

    size: tuple[_Side, _Side] = (518, 518)  # (height, width)
    keep_aspect_ratio: bool = True
    ensure_multiple_of: int = Field(default=14, ge=1, le=128)
    rule: SizeRule = "lower_bound"

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The published size (height, width) of a photograph of that many pixels."""
        scales = self.size[0] / height, self.size[1] / width
        if self.keep_aspect_ratio:
            one = max(scales) if self.rule == "lower_bound" else min(scales, key=lambda scale: abs(1 - scale))
            scales = one, one
        return self._side(scales[0] * height, self.size[0]), self._side(scales[1] * width, self.size[1])

    def _side(self, pixels: float, least: int) -> int:
        """The nearest multiple; the next larger one where the rule's bound would be missed."""
        step = self.ensure_multiple_of
        side = round(pixels / step) * step
        if self.rule == "lower_bound" and side < least:
            side = math.ceil(pixels / step) * step
        return max(side, step)


class Preprocess(Frozen):
    """Preprocessing to `pixel_values`: field names as in timm's PretrainedCfg, the official DINOv2 transform.

    `normalize` says who subtracts the mean and divides by the standard deviation: the "host" before the model, or the
    "graph" itself (the model then takes RGB 0..255). It is the only place that says so; nothing is normalised twice.
    `patch` is the edge of one patch in pixels: what the patch tokens of the output are a grid of. A file that takes
    images of any size has `sides`, the shortest and the longest side in pixels; its `input_size` is the one at which it
    is compared and timed.
    With `whole_image` nothing is cropped: the picture is resized to `input_size`, stretched where its shape is another
    (DPTImageProcessor without `keep_aspect_ratio`). A picture of that published size is not stretched.
    """

    input_size: tuple[_Side, _Side]  # (height, width) of the crop
    resize: _Side  # length of the shortest edge before the centre crop
    interpolation: Literal["bicubic"] = "bicubic"
    mean: tuple[_Mean, _Mean, _Mean] = IMAGENET_MEAN
    std: tuple[_Deviation, _Deviation, _Deviation] = IMAGENET_STD
    normalize: Normalize = "host"
    patch: int = Field(default=14, ge=1, le=128)
    sides: tuple[_Side, _Side] | None = None
    whole_image: WholeImage | None = None

    @classmethod
    def for_size(cls, height: int, width: int, *, normalize: Normalize = "host") -> Preprocess:
        """Official ratio (256 for 224) scaled to another crop size, of DINOv2; `ViTConfig.preprocess` is of any."""
        return cls(input_size=(height, width), resize=round(min(height, width) * 256 / 224), normalize=normalize)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches of an image as (rows, columns)."""
        return self.input_size[0] // self.patch, self.input_size[1] // self.patch

    def nearest_size(self, height: float, width: float) -> tuple[int, int]:
        """The size nearest to (height, width) that the file takes, side by side."""
        return nearest_side(height, self.patch, self.sides), nearest_side(width, self.patch, self.sides)

    @property
    def lying_size(self) -> tuple[int, int]:
        """The size of a file of any that is its own but half as wide again, or less high where it cannot be wider."""
        height, width = self.input_size
        wider = self.sides is not None and 1.5 * width <= self.sides[1]
        return self.nearest_size(height, 1.5 * width) if wider else self.nearest_size(height / 1.5, width)

    def at(self, height: int, width: int) -> Preprocess:
        """The same preprocessing to another size of a file that takes any; its own size is taken by every file.

        Raises:
            DataError: a side is no multiple of the patch or beyond `sides`, or the file takes one size alone.
        """
        if (height, width) == self.input_size:
            return self
        if self.sides is None:
            size = "x".join(map(str, self.input_size))
            raise DataError(
                f"an image of {height}x{width} pixels does not fit",
                why=f"the file takes {size} alone",
                fix="edgekit build --image-size dynamic --out OUT",
            )
        if (nearest := self.nearest_size(height, width)) != (height, width):
            raise DataError(
                f"an image of {height}x{width} pixels does not fit",
                why=f"the file takes multiples of {self.patch} from {self.sides[0]} to {self.sides[1]} pixels a side",
                fix=f"the nearest size is {nearest[0]}x{nearest[1]}",
            )
        resize = round(self.resize * min(height, width) / min(self.input_size))
        return self.model_copy(update={"input_size": (height, width), "resize": resize})

    @model_serializer(mode="wrap")
    def _without_usual_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files of DINOv2, and those of one size, keep their bytes."""
        values: dict[str, Any] = handler(self)
        usual = {"patch": 14, "sides": None, "whole_image": None}
        return {key: value for key, value in values.items() if key not in usual or value != usual[key]}

    @model_validator(mode="after")
    def _size_is_within(self) -> Self:
        """The size at which a file of many sizes is compared is one of them."""
        if self.sides is not None and self.nearest_size(*self.input_size) != self.input_size:
            raise ValueError(f"input_size {self.input_size} is none of patch {self.patch} and sides {self.sides}")
        return self


def nearest_side(side: float, patch: int, sides: tuple[int, int] | None) -> int:
    """The multiple of `patch` nearest to `side`, within `sides` where these are given."""
    least, most = sides or (patch, MOST_SIDE)
    return min(max(round(side / patch), -(-least // patch)), most // patch) * patch


class Artifact(Ran):
    """One exported model: where it is, what it computes, where it comes from. Transforms are Artifact -> Artifact."""

    name: str  # "onnx/w8a8_fused": unique in a build folder
    path: Path
    format: Format
    precision: Precision
    variant: Variant = "standard"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    recipe_digest: str
    parent_sha256: str  # of the checkpoint it was made from
    tools: dict[str, str] = {}  # package -> version
    sha256: str
    size_mb: float
    notes: tuple[str, ...] = ()  # e.g. "exact U8U8 weights: this CPU saturates u8*s8"
