"""Heads behind the backbone: a head is a program over an emitter, written once for every format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from edgekit.graph.emitter import Emitter, Grid, V

Task = Literal["classification", "segmentation", "depth", "relative depth", "saliency"]


class Head(Protocol):
    """A task on the frozen backbone."""

    @property
    def task(self) -> Task:
        """The task of its output, which decides how its drift is measured."""
        ...

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks whose output it takes, counted from 0."""
        ...

    @property
    def normed(self) -> bool:
        """Whether it takes them behind the backbone's final norm."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the output's channels, () where there are none or they are not known."""
        ...

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        """Write the head over tokens (B, N, D) of each layer; returns its vector or map."""
        ...

    def shape(self, grid: Grid) -> tuple[int, ...]:
        """Shape of the output without the batch: (C,), (C, rows, columns), or (rows, columns) of one channel."""
        ...


def emit_heads(e: Emitter[V], heads: Mapping[str, Head], blocks: Sequence[V], hidden: V) -> dict[str, V]:
    """Write all heads behind a backbone that is run once.

    Args:
        e: the emitter that the backbone was written with.
        heads: by the name of their output.
        blocks: the residual stream (B, N, D) behind each block.
        hidden: the last of them behind the final norm.

    Returns:
        Each head's vector or map, by name.
    """
    made: dict[tuple[int, bool], V] = {(len(blocks) - 1, True): hidden}

    def layer(index: int, normed: bool) -> V:
        if (index, normed) not in made:
            x = blocks[index]
            if "unrotate" in e.tensors:
                x = e.matmul(x, e.tensors["unrotate"])
            made[index, normed] = e.layer_norm(x, e.tensors["norm.weight"], e.tensors["norm.bias"]) if normed else x
        return made[index, normed]

    outputs = {}
    for name, head in heads.items():
        e.begin_head(name)
        outputs[name] = head.emit(e, [layer(index, head.normed) for index in head.layers], e.grid)
    return outputs
