"""The tables of precisions and variants: what a file stores and computes with. Whoever wants to know asks here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Precision = Literal["fp32", "fp16", "w8", "w8a8", "w8a16", "w4", "w4a8"]
Variant = Literal["standard", "fused", "per_token", "dynamic", "composite"]
VariantSwitch = Literal["fused", "dynamic_ranges", "fused_attention"]


@dataclass(frozen=True)
class PrecisionFacts:
    """Number types of a precision's GEMMs, the least that a working file of it reaches, and how it is drawn."""

    weight_bits: int  # 16 and more: floats
    activations: Literal["float", "int8", "int16"]  # inputs of the GEMMs
    least_cosine: float  # of `pooler_output` with FP32: below it a file is broken, not merely rounded
    pace: int  # place in the order of speed on CPUs in general, 0 is the fastest
    colours: tuple[str, str]  # of the report's charts on light and on dark paper

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.weight_bits >= 16

    @property
    def weight_only(self) -> bool:
        """Whether weights are integers and the inputs of the GEMMs floats."""
        return not self.is_float and self.activations == "float"


FACTS: dict[Precision, PrecisionFacts] = {
    "fp32": PrecisionFacts(32, "float", 0.999999, 5, ("#5b6470", "#a3acb8")),
    "fp16": PrecisionFacts(16, "float", 0.9999, 6, ("#3f7cc4", "#74aeef")),
    "w8": PrecisionFacts(8, "float", 0.99, 2, ("#1e9e8a", "#4fcdb8")),
    "w8a8": PrecisionFacts(8, "int8", 0.99, 0, ("#d9761a", "#f2a04d")),
    "w8a16": PrecisionFacts(8, "int16", 0.99, 1, ("#8a6d3b", "#c9a86a")),
    "w4": PrecisionFacts(4, "float", 0.8, 4, ("#c2557a", "#ea92b2")),
    "w4a8": PrecisionFacts(4, "int8", 0.8, 3, ("#a1408f", "#d683c6")),
}
"""In the order in which a build makes them: float first, since the parity of those files is known."""

REFERENCE: Final = "fp32"
"""The precision that others are compared with."""
INT8: Final = "w8a8"
"""The precision that a plan is made for, and an app takes, unless another is asked for."""
DEFAULT_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "w8a8")
"""Those of a recipe that names none."""
FUSED_BESIDE: dict[Precision, Precision] = {"w8a16": "w8a8"}
"""Precisions whose fused file is made wherever another precision is asked for."""


@dataclass(frozen=True)
class VariantFacts:
    """One form of a precision's file."""

    pace: int  # place in the order of speed among files of one precision, 0 is the fastest
    switch: VariantSwitch | None = None  # the field of a recipe that turns it on; None: always on
    special: bool = False  # for runtimes that know more than the usual operators: opened last


VARIANTS: dict[Variant, VariantFacts] = {
    "standard": VariantFacts(2),
    "fused": VariantFacts(0, "fused"),  # edgekit's block ops
    "per_token": VariantFacts(1, "dynamic_ranges"),  # a range for the inputs of each token, taken at run time
    "dynamic": VariantFacts(3, "dynamic_ranges"),  # a range for the inputs of each GEMM, taken at run time
    "composite": VariantFacts(4, "fused_attention", special=True),  # attention as one operator, for some delegates
}
"""In the order in which a build makes them."""


Arithmetic = Literal["plan", "default"]
"""Arithmetic that a file is run with: what its plan means (float32, exact sums of integers), or what its runtime does
of its own accord (bfloat16 on CPUs that have it, activations rounded to 8 bits beside 8-bit weights, and so on)."""


def is_float(precision: Precision) -> bool:
    """Whether a precision quantizes nothing."""
    return FACTS[precision].is_float


def is_reference(precision: Precision, variant: Variant) -> bool:
    """Whether a file is the plain FP32 one."""
    return precision == REFERENCE and variant == "standard"


def speed_rank(precision: Precision, variant: Variant) -> tuple[bool, int, int]:
    """Sorts kinds of files by speed on CPUs in general, fastest first; what this very machine prefers is measured."""
    return VARIANTS[variant].special, FACTS[precision].pace, VARIANTS[variant].pace
