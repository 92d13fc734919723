"""The head of Depth Anything: four normed maps without their class token, fused from the coarsest to the finest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgekit.errors import DataError
from edgekit.graph.emitter import Emitter, Grid, V
from edgekit.graph.heads import Task
from edgekit.heads.dpt import Convolutions
from edgekit.models.config import ViTConfig
from edgekit.models.depth_anything import DepthKind

_OFFICIAL = re.compile(
    r"depth_head\.(?:projects\.[0-3]|resize_layers\.[013]|scratch\.(?:layer[1-4]_rn|output_conv1|output_conv2\.[02]"
    r"|refinenet[1-4]\.(?:out_conv|resConfUnit[12]\.conv[12])))\.(?:weight|bias)"
)
_HUGGINGFACE = tuple(  # of transformers' DepthAnythingForDepthEstimation -> official
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^neck\.reassemble_stage\.layers\.(\d)\.projection\.", r"depth_head.projects.\1."),
        (r"^neck\.reassemble_stage\.layers\.(\d)\.resize\.", r"depth_head.resize_layers.\1."),
        (r"^head\.conv1\.", "depth_head.scratch.output_conv1."),
        (r"^head\.conv2\.", "depth_head.scratch.output_conv2.0."),
        (r"^head\.conv3\.", "depth_head.scratch.output_conv2.2."),
    )
)
_CONVS = re.compile(r"^neck\.convs\.(\d)\.")
_FUSION = re.compile(r"^neck\.fusion_stage\.layers\.(\d)\.(?:projection|residual_layer([12])\.convolution([12]))\.")


def _required() -> frozenset[str]:
    """Every tensor that the head computes with; `refinenet4.resConfUnit1` is in the files too, and never used."""
    names = [f"projects.{i}" for i in range(4)] + [f"resize_layers.{i}" for i in (0, 1, 3)]
    names += [f"scratch.refinenet{i}.out_conv" for i in range(1, 5)]
    names += [
        f"scratch.refinenet{i}.resConfUnit{unit}.conv{conv}"
        for i in range(1, 5)
        for unit in (1, 2)
        for conv in (1, 2)
        if (i, unit) != (4, 1)
    ]
    names += [f"scratch.output_{part}" for part in ("conv1", "conv2.0", "conv2.2")]
    convs = {f"scratch.layer{i}_rn.weight" for i in range(1, 5)}  # without bias
    return frozenset(convs | {f"{name}.{part}" for name in names for part in ("weight", "bias")})


_REQUIRED = _required()


@dataclass(frozen=True)
class DepthAnything(Convolutions):
    """Depth (B, H, W) at the size of the image: an inverse depth without unit, or metres of a metric model.

    Yang et al. 2024 (arXiv 2406.09414), depth_anything_v2/dpt.py: DPTHead without class token. `state` has the official
    keys, without "depth_head.".
    """

    classes: ClassVar[tuple[str, ...]] = ()
    kind: DepthKind
    patch: int

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: ViTConfig, kind: DepthKind) -> DepthAnything:
        """Raises DataError when it is incomplete, for another width, or a backbone of fewer than four blocks."""
        if missing := sorted(_REQUIRED - state.keys()):
            raise DataError(
                f"the depth head lacks {len(missing)} tensors ({', '.join(missing[:3])} ...)",
                why="the file is cut, or of another model",
            )
        width = state["projects.0.weight"].shape[1]
        if width != config.width or config.depth < 4:
            raise DataError(
                f"the depth head takes tokens of width {width} from four blocks",
                why=f"the backbone's width is {config.width}, its depth {config.depth}",
            )
        return cls(state, kind, config.patch)

    @property
    def task(self) -> Task:
        """With or without a unit."""
        return "relative depth" if self.kind.max_depth is None else "depth"

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks that this version reads."""
        return self.kind.taps

    @property
    def normed(self) -> bool:
        """Behind the final norm, in every published model."""
        return self.kind.normed

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        """Reassemble, fuse, enlarge to the image, predict."""
        rows, columns = grid
        sizes = ((4 * rows, 4 * columns), (2 * rows, 2 * columns), grid)
        maps = []
        for i, tokens in enumerate(layers):
            x = self._conv(e, e.patch_map(tokens), f"projects.{i}")
            maps.append(self._conv(e, self._resized(e, x, f"resize_layers.{i}", i), f"scratch.layer{i + 1}_rn", 1))
        out = maps[3]
        for i in (3, 2, 1, 0):
            name = f"scratch.refinenet{i + 1}"
            if i < 3:
                out = e.add(out, self._unit(e, maps[i], f"{name}.resConfUnit1"))
            out = self._conv(e, self._unit(e, out, f"{name}.resConfUnit2"), f"{name}.out_conv")
            # officially resized first: a 1x1 convolution does not mind, and works on fewer places
            out = e.resize(out, sizes[i - 1] if i else (8 * rows, 8 * columns), "aligned")
        out = e.resize(self._conv(e, out, "scratch.output_conv1", 1), self.shape(grid), "aligned")
        out = self._conv(e, out, "scratch.output_conv2.0", 1, relu=True)
        weight, bias = self._parameters("scratch.output_conv2.2")
        if self.kind.max_depth is None:
            return e.conv(out, weight * np.float32(self.kind.gain), bias * np.float32(self.kind.gain), relu=True)
        return self._scaled(e, e.activate(e.conv(out, weight, bias), "sigmoid"), self.kind.max_depth)

    def shape(self, grid: Grid) -> Grid:
        """The size of the depth map, (H, W) of the image."""
        return self.patch * grid[0], self.patch * grid[1]

    def _unit(self, e: Emitter[V], x: V, name: str) -> V:
        return self._residual(e, x, f"{name}.conv1", f"{name}.conv2")

    @staticmethod
    def _scaled(e: Emitter[V], x: V, factor: float) -> V:
        return e.conv(x, np.full((1, 1, 1, 1), factor, np.float32), np.zeros(1, np.float32))


def official_key(key: str) -> str | None:
    """The official name of a tensor of the head, without "depth_head."; None where the head has none of that name.

    Args:
        key: official, or Hugging Face's, without what stands before "depth_head.", "neck." or "head.".
    """
    if found := _CONVS.match(key):
        key = f"depth_head.scratch.layer{int(found[1]) + 1}_rn." + key[found.end() :]
    elif found := _FUSION.match(key):
        inner = f"resConfUnit{found[2]}.conv{found[3]}" if found[2] else "out_conv"
        key = f"depth_head.scratch.refinenet{4 - int(found[1])}.{inner}." + key[found.end() :]
    else:
        for pattern, replacement in _HUGGINGFACE:
            key = pattern.sub(replacement, key)
    return key.removeprefix("depth_head.") if _OFFICIAL.fullmatch(key) else None
