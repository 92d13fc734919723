"""Heads as steps of a `.edgekit` file; the library computes the backbone by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
from typing_extensions import override

from edgekit.graph.emitter import Activation, Conv, Corners, Emitter, Grid, Tensors
from edgekit.plan.heads import HEADS, HeadPlan, LayerPlan

if TYPE_CHECKING:
    from edgekit.graph.gemms import GemmStrategy
    from edgekit.graph.heads import Head
    from edgekit.models.config import ViTConfig

Arrays = dict[str, np.ndarray]


def head_programs(
    config: ViTConfig, tensors: Tensors, heads: Mapping[str, Head], plan: HeadPlan | None
) -> tuple[list[dict[str, Any]], Arrays]:
    """The programs of all heads as the description lists them, and their tensors."""
    programs: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for name, head in heads.items():
        e = HeadEmitter(config, tensors, name, plan)
        head.emit(e, [e.layer(index, normed=head.normed) for index in head.layers], config.grid)
        rank = len(head.shape(config.grid))
        programs.append({"name": name, "rank": rank, "grid": list(config.grid), "steps": e.steps})
        arrays |= e.arrays
    return programs, arrays


class HeadEmitter(Emitter[int]):
    """One head's steps; a value is the number of the step that makes it."""

    def __init__(self, config: ViTConfig, tensors: Tensors, name: str, head_plan: HeadPlan | None) -> None:
        no_gemms = cast("GemmStrategy[int]", None)  # of the backbone, which is not emitted
        super().__init__(config, tensors, no_gemms, head_plan)
        self.steps: list[dict[str, Any]] = []
        self.arrays: Arrays = {}
        self._name = name
        self.begin_head(name)

    def layer(self, index: int, *, normed: bool) -> int:
        """Tokens behind a block, those of the last one behind the final norm being the model's own output."""
        if normed and index == self.config.depth - 1:
            return self._step("hidden")
        x = self._step("layer", block=index)
        return self.layer_norm(x, self.tensors["norm.weight"], self.tensors["norm.bias"]) if normed else x

    def _step(self, op: str, *inputs: int, **fields: object) -> int:
        self.steps.append({"op": op, "inputs": list(inputs), **fields})
        return len(self.steps) - 1

    def _with(self, step: int, **arrays: np.ndarray) -> int:
        """The same step with its tensors."""
        self.arrays |= {f"{HEADS}{self._name}.{step}.{part}": array for part, array in arrays.items()}
        return step

    # Operations of heads

    @override
    def add(self, a: int, b: int, name: str = "") -> int:
        return self._step("add", a, b)

    @override
    def layer_norm(self, x: int, weight: np.ndarray, bias: np.ndarray, name: str = "") -> int:
        return self._with(self._step("layer_norm", x), weight=_floats(weight), bias=_floats(bias))

    @override
    def activate(self, x: int, function: Activation, name: str = "") -> int:
        return self._step("activate", x, function=function)

    @override
    def class_token(self, tokens: int, name: str = "") -> int:
        return self._step("class_token", tokens)

    @override
    def mean_patch(self, tokens: int) -> int:
        return self._step("mean_patch", tokens)

    @override
    def patch_map(self, tokens: int) -> int:
        return self._step("patch_map", tokens)

    @override
    def concat(self, values: Sequence[int]) -> int:
        return values[0] if len(values) == 1 else self._step("concat", *values)

    @override
    def resize(self, image: int, size: Grid, corners: Corners) -> int:
        return self._step("resize", image, size=list(size), corners=corners)

    @override
    def add_channelwise(self, image: int, vector: int) -> int:
        return self._step("add_channelwise", image, vector)

    @override
    def add_scalar(self, x: int, value: float) -> int:
        return self._step("add_scalar", x, value=float(value))

    @override
    def divide(self, a: int, b: int) -> int:
        return self._step("divide", a, b)

    @override
    def softmax(self, vector: int) -> int:
        return self._step("softmax", vector)

    @override
    def l2_normalize(self, vector: int) -> int:
        return self._step("l2_normalize", vector)

    @override
    def float_linear(self, vector: int, weight: np.ndarray, bias: np.ndarray) -> int:
        return self._with(self._step("linear", vector), weight=_floats(weight), bias=_floats(bias))

    @override
    def integer_linear(self, vector: int, layer: LayerPlan) -> int:
        return self._with(self._step("linear", vector), **_integers(layer))

    @override
    def float_conv(self, image: int, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> int:
        return self._with(self._conv(image, shape), weight=_floats(weight), bias=_floats(bias))

    @override
    def integer_conv(self, image: int, layer: LayerPlan, shape: Conv) -> int:
        """Integer weights under float activations, whatever the plan's quantizers."""
        return self._with(self._conv(image, shape), **_integers(layer))

    def _conv(self, image: int, shape: Conv) -> int:
        sides = {"kernel": shape.kernel, "stride": shape.stride, "padding": shape.padding, "shuffle": shape.shuffle}
        return self._step("conv", image, **sides, relu=int(shape.relu))

    # Operations of the backbone, which a head's program has none of

    @override
    def matmul(self, x: int, matrix: np.ndarray, name: str = "") -> NoReturn:
        raise NotImplementedError

    @override
    def prepend_tokens(self, patches: int) -> NoReturn:
        raise NotImplementedError

    @override
    def split_heads(self, name: str, packed: int) -> NoReturn:
        raise NotImplementedError

    @override
    def turn(self, name: str, x: int, shift: np.ndarray | None) -> NoReturn:
        raise NotImplementedError

    @override
    def join_heads(self, name: str, x: int) -> NoReturn:
        raise NotImplementedError

    @override
    def scale_channels(self, x: int, key: str, name: str) -> NoReturn:
        raise NotImplementedError

    @override
    def swiglu(self, x: int, name: str) -> NoReturn:
        raise NotImplementedError


def _floats(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)


def _integers(layer: LayerPlan) -> Arrays:
    return {"weight": layer.weight, "scale": _floats(layer.weight_scale), "bias": _floats(layer.bias)}
