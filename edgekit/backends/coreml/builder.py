"""Small pieces of MIL programs, and what all parts of one program have to agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from coremltools.converters.mil import Builder as mb

from edgekit.plan.quant import StaticInput

Target = Literal["iOS17", "iOS18"]
"""iOS 18 and macOS 15 have attention as one operation; before them it is written as two products and a softmax."""

Var = Any  # coremltools.converters.mil.mil.Var
SHIFT = 128  # added to Core ML's int8 gives the plan's uint8


@dataclass(frozen=True)
class ProgramOptions:
    """Options that the emitter of a program shares with its `GemmStrategy`."""

    target: Target  # the oldest system that shall run it
    dtype: type[np.floating[Any]]  # float16 or float32: of activations and float constants
    batch: int = 1  # images of one call, -1 where their number is open

    def number(self, value: np.ndarray) -> np.ndarray:
        """A constant in the program's number type."""
        return np.ascontiguousarray(value, self.dtype)


def mil_name(name: str) -> str:
    """MIL identifiers have neither dots nor slashes: "blocks.0.attn.qkv" -> "blocks_0_attn_qkv"."""
    return name.replace(".", "_").replace("/", "_")


def fake_quantize(name: str, x: Var, quantizer: StaticInput) -> Var:
    """`quantize` to int8 and `dequantize`: the values of the plan's uint8 quantizer, whose integers are 128 higher.

    `name` is that of the dequantized variable.
    """
    scale, zero_point = np.float16(quantizer.scale), np.int8(quantizer.zero_point - SHIFT)
    q = mb.quantize(input=x, scale=scale, zero_point=zero_point, output_dtype="int8", name=f"{name}_q")
    return mb.dequantize(input=q, scale=scale, zero_point=zero_point, name=name)
