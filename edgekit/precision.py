"""The table of precisions: what a file stores and computes with. Whoever wants to know asks here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "fp16", "w8", "w8a8", "w8a16", "w4", "w4a8"]
Variant = Literal["standard", "fused", "composite"]
"""A second form of one precision: "fused" has edgekit's block ops, "composite" has attention as one operator."""


@dataclass(frozen=True)
class PrecisionFacts:
    """Number types of a precision's GEMMs, and the least that a working file of it reaches."""

    weight_bits: int  # 16 and more: floats
    activations: Literal["float", "int8", "int16"]  # inputs of the GEMMs
    least_cosine: float  # of `pooler_output` with FP32: below it a file is broken, not merely rounded

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.weight_bits >= 16

    @property
    def weight_only(self) -> bool:
        """Whether weights are integers and the inputs of the GEMMs floats."""
        return not self.is_float and self.activations == "float"


FACTS: dict[Precision, PrecisionFacts] = {
    "fp32": PrecisionFacts(32, "float", 0.999999),
    "fp16": PrecisionFacts(16, "float", 0.9999),
    "w8": PrecisionFacts(8, "float", 0.99),
    "w8a8": PrecisionFacts(8, "int8", 0.99),
    "w8a16": PrecisionFacts(8, "int16", 0.99),
    "w4": PrecisionFacts(4, "float", 0.8),
    "w4a8": PrecisionFacts(4, "int8", 0.8),
}
"""In the order in which a build makes them: float first, since the parity of those files is known."""


def is_float(precision: Precision) -> bool:
    """Whether a precision quantizes nothing."""
    return FACTS[precision].is_float
