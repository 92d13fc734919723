"""The HeadPlan: integers, scales and zero points of the layers of one build's heads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from typing_extensions import override

from edgekit.plan.quant import StaticInput
from edgekit.plan.storage import StoredPlan, Tensors

HEADS = "heads."  # what the names of all layers and nodes of heads begin with
ENGINE = 1  # raised when `quantize_heads` makes other integers of the same heads and images
_TENSORS = ("weight", "weight_scale", "bias")  # of a layer


@dataclass(frozen=True)
class LayerPlan:
    """A convolution, or a linear layer, with integer weights.

    A convolution rounds its input to uint8, sums integers, and rounds its output to uint8 again (its ReLU is the clamp
    at zero_point): the form that every runtime has a fast kernel for. Without the two quantizers a layer has integer
    weights alone, for the size of the file: linear layers, which work on a single vector, and convolutions that are too
    sensitive to input rounding.
    """

    weight: np.ndarray  # int8 (out, in, k, k) or (out, in), symmetric
    weight_scale: np.ndarray  # float32 (out,)
    bias: np.ndarray  # float32 (out,)
    input: StaticInput | None = None
    output: StaticInput | None = None

    def dequantized(self) -> np.ndarray:
        """Dequantized weights: float32, in their shape."""
        scale = self.weight_scale.reshape(-1, *[1] * (self.weight.ndim - 1))
        return (self.weight * scale).astype(np.float32)

    def int32_bias(self) -> np.ndarray:
        """The bias (out,) in steps of the accumulator."""
        return np.rint(self.bias.astype(np.float64) / self.accumulator_scale()).astype(np.int32)

    def require_sound(self, name: str) -> None:
        """Raises ValueError for numbers that no plan has: not finite, scales of 0, weights that are no int8."""
        if self.weight.dtype != np.int8 or not (np.isfinite(self.weight_scale).all() and np.isfinite(self.bias).all()):
            raise ValueError(f"{name} holds NaN or infinite values, or weights of {self.weight.dtype}")
        outputs = self.weight.shape[:1]
        if self.weight.ndim not in (2, 4) or self.weight_scale.shape != outputs or self.bias.shape != outputs:
            shapes = f"{self.weight.shape}, {self.weight_scale.shape} and {self.bias.shape}"
            raise ValueError(f"weight, scales and bias of {name} have shapes {shapes}")
        for grid in (self.input, self.output):
            if grid is not None:
                grid.require_sound(name)

    def accumulator_scale(self) -> np.ndarray:
        """Scale of a convolution's int32 accumulator: float32 (out,)."""
        assert self.input is not None
        scale: np.ndarray = np.float32(self.input.scale) * self.weight_scale
        return scale


@dataclass(frozen=True)
class HeadPlan(StoredPlan):
    """The layers of all heads that are integers, by name ("heads.depth.3": the third of the head `depth`)."""

    SCHEMA: ClassVar = "edgekit.heads/1"
    TITLE: ClassVar = "plan of heads"
    COMMAND: ClassVar = "build"

    layers: dict[str, LayerPlan]
    kept_float: dict[str, str] = field(default_factory=dict)  # layer -> what of it the gate has left float, and why
    sqnr_db: dict[str, float] = field(default_factory=dict)  # head -> of its output, on the float model's features
    key: str = ""  # digest of what decided the plan

    def notes(self) -> list[str]:
        """A sentence for each head with integers, and for each layer that the gate has left float."""
        notes = []
        for head, figure in self.sqnr_db.items():
            own = [layer for name, layer in self.layers.items() if name.startswith(f"{HEADS}{head}.")]
            whole = sum(layer.input is not None for layer in own)
            notes += [
                f"head {head}: int8 products in {whole} layers, int8 weights in {len(own)}; "
                f"its output is {figure:.1f} dB above that noise"
            ] * bool(own)
        return notes + [f"{name}: {reason}" for name, reason in self.kept_float.items()]

    def weights_alone(self) -> HeadPlan:
        """The weight-only plan: the same integers for files whose arithmetic is float."""
        layers = {name: replace(layer, input=None, output=None) for name, layer in self.layers.items()}
        return replace(self, layers=layers)

    @override
    def parts(self) -> tuple[dict[str, Any], Tensors]:
        tensors = {f"{name}/{part}": getattr(layer, part) for name, layer in self.layers.items() for part in _TENSORS}
        grids = {
            name: [grid and (grid.scale, grid.zero_point) for grid in (layer.input, layer.output)]
            for name, layer in self.layers.items()
        }
        return {"grids": grids, "kept_float": self.kept_float, "sqnr_db": self.sqnr_db, "key": self.key}, tensors

    @override
    @classmethod
    def of_parts(cls, meta: dict[str, Any], tensors: Tensors) -> Self:
        layers = {}
        for name, grids in meta["grids"].items():
            weight, scale, bias = (tensors[f"{name}/{part}"] for part in _TENSORS)
            before, behind = (StaticInput(*grid) if grid else None for grid in grids)
            layers[name] = LayerPlan(weight, scale, bias, before, behind)
        return cls(layers, meta["kept_float"], meta["sqnr_db"], meta["key"])

    @override
    @classmethod
    def key_of(cls, meta: dict[str, Any]) -> str:
        return str(meta["key"])

    @override
    def require_sound(self) -> None:
        for name, layer in self.layers.items():
            layer.require_sound(name)
