"""DPT depth: patch tokens of four layers become maps of four sizes, fused from the coarsest to the finest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgekit.errors import DataError
from edgekit.graph.emitter import Emitter, Grid, V
from edgekit.graph.heads import Task
from edgekit.heads.depth import MIN_DEPTH, depth_layers
from edgekit.heads.shuffle import as_shuffled
from edgekit.models.config import ViTConfig


@dataclass(frozen=True)
class Convolutions:
    """Convolutions by the names that their tensors have in a checkpoint."""

    state: Mapping[str, np.ndarray]

    def _conv(self, e: Emitter[V], x: V, name: str, padding: int = 0, *, relu: bool = False) -> V:
        return e.conv(x, *self._parameters(name), padding=padding, relu=relu)

    def _resized(self, e: Emitter[V], x: V, name: str, i: int) -> V:
        """Map i of four: four times, twice, once, or half as fine."""
        if i == 2:
            return x
        weight, bias = self._parameters(name)
        if i == 3:
            return e.conv(x, weight, bias, stride=2, padding=1)
        scale = 4 >> i
        return e.conv(x, *as_shuffled(weight, bias, scale, 0), shuffle=scale)

    def _residual(self, e: Emitter[V], x: V, first: str, second: str) -> V:
        """x + second(relu(first(relu(x))))."""
        y = self._conv(e, e.activate(x, "relu"), first, 1, relu=True)
        return e.add(self._conv(e, y, second, 1), x)

    def _parameters(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Weight and bias; zeros where there is none."""
        weight = self.state[f"{name}.weight"]
        return weight, self.state.get(f"{name}.bias", np.zeros(len(weight), np.float32))


@dataclass(frozen=True)
class DptDepth(Convolutions):
    """Depth in metres (B, 32 * ceil(rows / 2), 32 * ceil(columns / 2)) from four layers before the final norm.

    Ranftl et al. 2021; file: `decode_head.*` of facebookresearch/dinov2's DPT depthers (dinov2/hub/depth/
    decode_heads.py: DPTHead with readout "project").
    """

    task: ClassVar[Task] = "depth"
    normed: ClassVar[bool] = False
    classes: ClassVar[tuple[str, ...]] = ()
    layers: tuple[int, ...]

    @classmethod
    def from_state(cls, state: Mapping[str, np.ndarray], config: ViTConfig) -> DptDepth:
        """Raises DataError when it is for another width."""
        width = state["reassemble_blocks.projects.0.conv.weight"].shape[1]
        if width != config.width or config.depth < 4:
            raise DataError(
                f"the DPT head takes tokens of width {width} from four blocks",
                why=f"the backbone's width is {config.width}, its depth {config.depth}",
            )
        return cls(state, depth_layers(config.depth, 4))

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        """Reassemble, fuse, project, predict."""
        rows, columns = grid
        maps = [self._conv(e, self._reassembled(e, i, x), f"convs.{i}.conv", 1) for i, x in enumerate(layers)]
        size, out = _coarsest(grid), maps[3]
        sizes = ((4 * rows, 4 * columns), (2 * rows, 2 * columns), grid)
        for i in range(4):
            name = f"fusion_blocks.{i}"
            if i:
                finer = maps[3 - i]
                if sizes[3 - i] != size:
                    finer = e.resize(finer, size, "free")
                out = e.add(out, self._unit(e, finer, f"{name}.res_conv_unit1"))
            out = self._unit(e, out, f"{name}.res_conv_unit2")
            size = (2 * size[0], 2 * size[1])  # officially resized first: a 1x1 convolution does not mind, at 1/4 of it
            out = e.resize(self._conv(e, out, f"{name}.project.conv"), size, "aligned")
        out = self._conv(e, out, "project.conv", 1, relu=True)
        out = e.resize(self._conv(e, out, "conv_depth.head.0", 1), self.shape(grid), "aligned")
        out = self._conv(e, out, "conv_depth.head.2", 1, relu=True)
        return e.add_scalar(self._conv(e, out, "conv_depth.head.4", relu=True), MIN_DEPTH)

    def shape(self, grid: Grid) -> Grid:
        """32 times the coarsest map, which has half as many rows and columns as the patch grid."""
        rows, columns = _coarsest(grid)
        return 32 * rows, 32 * columns

    def _reassembled(self, e: Emitter[V], i: int, tokens: V) -> V:
        """The class token read into every patch, then a map four, two, one or half times as fine as the grid."""
        weight, bias = self._parameters(f"reassemble_blocks.readout_projects.{i}.0")  # (D, 2 * D)
        width = len(weight)
        cls = e.linear(e.class_token(tokens), np.ascontiguousarray(weight[:, width:]), np.zeros_like(bias))
        x = e.add_channelwise(e.conv(e.patch_map(tokens), weight[:, :width, None, None].copy(), bias), cls)
        x = self._conv(e, e.activate(x, "gelu"), f"reassemble_blocks.projects.{i}.conv")
        return self._resized(e, x, f"reassemble_blocks.resize_layers.{i}", i)

    def _unit(self, e: Emitter[V], x: V, name: str) -> V:
        return self._residual(e, x, f"{name}.conv1.conv", f"{name}.conv2.conv")


def _coarsest(grid: Grid) -> Grid:
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2
