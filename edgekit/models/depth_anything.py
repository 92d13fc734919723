"""Depth Anything: names of its checkpoints, the blocks each version reads, licences, and the size of photographs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from edgekit.artifact import WholeImage
from edgekit.errors import DataError

Version = Literal["v1", "v2"]

KINDS = ("v1", "v2", "hypersim", "vkitti")
"""What a user may say of a checkpoint: version 1 or 2 of the relative models, or what a metric one was trained on."""

_RANGES = {"hypersim": 20.0, "indoor": 20.0, "vkitti": 80.0, "outdoor": 80.0}  # metres
_SIZES = {384: "Small", 768: "Base", 1024: "Large", 1536: "Giant"}  # by width of the encoder
_CHANNELS = {  # of the head, by width of the encoder: of each reassembled map, and of fusion
    384: ((48, 96, 192, 384), 64),
    768: ((96, 192, 384, 768), 128),
    1024: ((256, 512, 1024, 1024), 256),
}
_PROCESSOR = {"do_resize": True, "resample": 3, "do_pad": False}  # 3 is Pillow's bicubic
_OFFICIAL = re.compile(r"(?:^|\.)depth_head\.(?:projects|resize_layers|readout_projects|scratch)\.")
_HUGGINGFACE = re.compile(r"(?:^|\.)neck\.(?:reassemble_stage|convs|fusion_stage)\.")
_NAME = re.compile(r"depth[-_ ]?anything")
_NAME_V2 = re.compile(r"depth[-_ ]?anything[-_ ]?v2")
_NAME_V1 = re.compile(r"depth[-_ ]?anything[-_ ](?:vit[sbl]14|(?:small|base|large)(?:-hf)?$)")


@dataclass(frozen=True)
class DepthKind:
    """The kind of a Depth Anything checkpoint, which its keys do not tell.

    `taps` are the blocks whose output the head reads, counted from 0. `max_depth` is the range in metres of a metric
    model, None of a relative one, whose output (an inverse depth without unit) is multiplied by `gain`.
    """

    version: Version
    taps: tuple[int, ...]
    normed: bool = True  # behind the final norm
    max_depth: float | None = None
    gain: float = 1.0
    assumed: bool = False  # neither the user, nor config.json, nor the name of the file says it

    @property
    def words(self) -> str:
        """For example "relative depth of blocks 2, 5, 8, 11"."""
        what = "relative depth" if self.max_depth is None else f"metric depth to {self.max_depth:g} m"
        return f"{what} from blocks {', '.join(map(str, self.taps))}"


def is_depth_anything(keys: Iterable[str]) -> bool:
    """Whether these keys belong to the head of Depth Anything, official or Hugging Face."""
    return any(_OFFICIAL.search(key) or _HUGGINGFACE.search(key) for key in keys)


def title_of(version: Version, width: int) -> str:
    """For example "Depth Anything V2 Small", by the width of the encoder."""
    return f"Depth Anything {version.upper()} {_SIZES.get(width, f'of width {width}')}"


def licence_of(version: Version, width: int) -> str:
    """SPDX name of the licence of the published weights of this size; "" where it is not known.

    Small is Apache-2.0, the other sizes of version 2 are CC-BY-NC-4.0 (README of DepthAnything/Depth-Anything-V2).
    """
    size = _SIZES.get(width)
    if size == "Small":
        return "Apache-2.0"
    return "CC-BY-NC-4.0" if size and version == "v2" else ""


def head_parameters(width: int) -> int:
    """The number of parameters of the published head (depth_anything_v2/dpt.py) behind an encoder of that width."""
    (*maps, last), channels = _CHANNELS[width]
    projects = sum((width + 1) * count for count in (*maps, last))
    resizes = sum(count * (count * side**2 + 1) for count, side in ((maps[0], 4), (maps[1], 2), (last, 3)))
    readouts = sum(9 * count * channels for count in (*maps, last))
    fusion = 4 * (4 * channels * (9 * channels + 1) + channels * (channels + 1))  # refinenet4's first unit included
    output = (9 * channels + 1) * (channels // 2) + (9 * (channels // 2) + 1) * 32 + 33
    return projects + resizes + readouts + fusion + output


def whole_image_of(processor: Mapping[str, Any]) -> WholeImage:
    """The published size of photographs: by preprocessor_config.json, else that of the official code.

    Args:
        processor: preprocessor_config.json of transformers' DPTImageProcessor; empty without one.

    Raises:
        DataError: it resizes in another way.
    """
    if not processor:
        return WholeImage()
    for key, only in _PROCESSOR.items():
        if processor.get(key, only) != only:
            raise DataError(
                f"preprocessor_config.json says {key} = {processor[key]!r}",
                why=f"every published model has {only!r}",
                fix="--heads none",
            )
    size = processor.get("size")
    try:
        return WholeImage.model_validate(
            {
                "size": (size["height"], size["width"]) if isinstance(size, Mapping) else size,
                "keep_aspect_ratio": processor.get("keep_aspect_ratio", False),
                "ensure_multiple_of": processor.get("ensure_multiple_of", 1),
                "rule": "minimal",
            }
        )
    except (KeyError, ValidationError):
        raise DataError(
            f"preprocessor_config.json says size = {str(size)[:60]}",
            why="a height and a width in pixels are needed, and ensure_multiple_of from 1 to 128",
            fix="--heads none",
        ) from None


def depth_kind(depth: int, *, said: str = "", described: Mapping[str, Any], name: str = "") -> DepthKind:
    """The kind of a checkpoint, by the first of: what the user says, config.json, the name of the file or folder.

    Args:
        depth: blocks of the encoder.
        said: one of `KINDS`, or "".
        described: config.json; empty without one.
        name: of the file or folder, as the official ones are called ("depth_anything_v2_metric_vkitti_vits.pth").

    Raises:
        DataError: an unknown kind, a metric model whose range nothing tells, or a config.json that cannot be followed.
    """
    if said:
        if said not in KINDS:
            raise DataError(
                f"{said!r} is no kind of Depth Anything",
                why="known are " + ", ".join(KINDS),
                fix="--heads predicted_depth=model:v2",
            )
        return _of_kind(said, depth)
    if "backbone_config" in described or "depth_estimation_type" in described:
        return _of_config(described, depth)
    name = name.lower()
    if not _NAME.search(name):
        return DepthKind("v2", taps_of("v2", depth), assumed=True)
    if found := next((word for word in _RANGES if word in name), None):
        return DepthKind("v2", taps_of("v2", depth), max_depth=_RANGES[found])
    if "metric" in name:
        raise DataError(
            f"{name} is a metric model whose range is not known",
            why="20 m of Hypersim, or 80 m of VKITTI",
            fix="--heads predicted_depth=model:hypersim, or =model:vkitti",
        )
    if _NAME_V2.search(name):
        return _of_kind("v2", depth)
    return _of_kind("v1", depth) if _NAME_V1.search(name) else DepthKind("v2", taps_of("v2", depth), assumed=True)


def taps_of(version: Version, depth: int) -> tuple[int, ...]:
    """Version 1 reads the last four blocks; version 2 four over the depth of the network.

    2, 5, 8, 11 of 12; 4, 11, 17, 23 of 24; 9, 19, 29, 39 of 40 (depth_anything_v2/dpt.py).
    """
    if version == "v1":
        return tuple(range(depth - 4, depth))
    return (4, 11, 17, 23) if depth == 24 else tuple((i + 1) * depth // 4 - 1 for i in range(4))


def _of_kind(said: str, depth: int) -> DepthKind:
    version: Version = "v1" if said == "v1" else "v2"
    return DepthKind(version, taps_of(version, depth), max_depth=_RANGES.get(said))


def _of_config(described: Mapping[str, Any], depth: int) -> DepthKind:
    """The blocks of transformers' DepthAnythingConfig, whose stage k is the output of block k - 1."""
    taps, normed = _taps_of_config(described.get("backbone_config") or {}, depth)
    for key, only in (("head_in_index", -1), ("reassemble_factors", [4, 2, 1, 0.5])):
        if described.get(key, only) != only:
            raise DataError(
                f"config.json says {key} = {described[key]!r}",
                why=f"every published model has {only!r}",
                fix="--heads none",
            )
    scale = described.get("max_depth") or 1
    if not isinstance(scale, int | float) or scale <= 0:
        raise DataError(f"config.json says max_depth = {scale!r}", why="a number above 0 is needed", fix="--heads none")
    match described.get("depth_estimation_type", "relative"):
        case "relative":
            version: Version = "v1" if taps == taps_of("v1", depth) != taps_of("v2", depth) else "v2"
            return DepthKind(version, taps, normed, gain=float(scale))
        case "metric":
            return DepthKind("v2", taps, normed, max_depth=float(scale))
        case other:
            raise DataError(
                f"config.json says depth_estimation_type = {other!r}",
                why="known are relative and metric",
                fix="--heads none",
            )


def _taps_of_config(backbone: Mapping[str, Any], depth: int) -> tuple[tuple[int, ...], bool]:
    """Blocks, and whether the final norm is applied to them."""
    stages = backbone.get("out_indices")
    if stages is None and backbone.get("out_features") is not None:
        names = backbone.get("stage_names") or ["stem", *(f"stage{i + 1}" for i in range(depth))]
        stages = [names.index(feature) if feature in names else None for feature in backbone["out_features"]]
    if stages is None:
        return taps_of("v2", depth), bool(backbone.get("apply_layernorm", True))
    whole = [stage + depth + 1 if stage < 0 else stage for stage in stages if isinstance(stage, int)]
    if len({*whole}) != 4 or len(stages) != 4 or not all(1 <= stage <= depth for stage in whole):
        raise DataError(
            f"config.json reads the stages {stages!r}", why=f"four of 1 to {depth} are needed", fix="--heads none"
        )
    return tuple(sorted(stage - 1 for stage in whole)), bool(backbone.get("apply_layernorm", True))
