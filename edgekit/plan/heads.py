"""The HeadPlan: integers, scales and zero points of the layers of one build's heads."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from edgekit.errors import DataError
from edgekit.files import require_regular, sealed, sealed_path
from edgekit.plan.quant import StaticInput

HEADS = "heads."  # what the names of all layers and nodes of heads begin with
HEAD_PLAN_SCHEMA = "edgekit.heads/1"
ENGINE = 1  # raised when `quantize_heads` makes other integers of the same heads and images


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
class HeadPlan:
    """The layers of all heads that are integers, by name ("heads.depth.3": the third of the head `depth`)."""

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

    def save(self, path: Path) -> None:
        """Write `path` (safetensors) atomically, its digest beside it."""
        from safetensors.numpy import save_file

        parts = ("weight", "weight_scale", "bias")
        tensors = {f"{name}/{part}": getattr(layer, part) for name, layer in self.layers.items() for part in parts}
        grids = {
            name: [grid and (grid.scale, grid.zero_point) for grid in (layer.input, layer.output)]
            for name, layer in self.layers.items()
        }
        meta = {
            "schema": HEAD_PLAN_SCHEMA,
            "grids": grids,
            "kept_float": self.kept_float,
            "sqnr_db": self.sqnr_db,
            "key": self.key,
        }
        with sealed_path(path) as temporary:
            save_file(
                {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
                temporary,
                metadata={"edgekit.heads": json.dumps(meta, sort_keys=True)},
            )

    @classmethod
    def key_in(cls, path: Path) -> str:
        """`key` of the plan in a file, of which only the header is read; "" where it is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            require_regular(path)
            with safe_open(path, framework="numpy") as file:
                return str(json.loads((file.metadata() or {})["edgekit.heads"])["key"])
        except (OSError, KeyError, ValueError, TypeError, RecursionError, SafetensorError):
            return ""

    @classmethod
    def load(cls, path: Path) -> HeadPlan:
        """Read what `save` wrote; raises DataError for anything else than that very file, and for NaN in it."""
        from safetensors import SafetensorError, safe_open

        try:
            if damage := sealed(path):
                raise ValueError(damage)
            with safe_open(path, framework="numpy") as file:
                meta = json.loads((file.metadata() or {})["edgekit.heads"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            if meta["schema"] != HEAD_PLAN_SCHEMA:
                raise ValueError(f"its schema is {meta['schema']!r}, this edgekit reads {HEAD_PLAN_SCHEMA!r}")
            layers = {
                name: LayerPlan(
                    *(tensors[f"{name}/{part}"] for part in ("weight", "weight_scale", "bias")),
                    *(StaticInput(*grid) if grid else None for grid in grids),
                )
                for name, grids in meta["grids"].items()
            }
            for name, layer in layers.items():
                layer.require_sound(name)
            return cls(layers, meta["kept_float"], meta["sqnr_db"], meta["key"])
        except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            raise DataError(
                f"{path} is no readable plan of heads",
                why=str(error)[:300],
                fix="delete it, edgekit build makes it again",
            ) from None
