"""Counts what a saved Core ML package holds: GEMMs with integer weights and inputs, attention as one operation."""

from __future__ import annotations

from collections import Counter

from edgekit.artifact import Artifact
from edgekit.backends.coreml.package import read_function
from edgekit.backends.coreml.verify import quantizers

_CONSTANTS = "constexpr_"


def audit_package(artifact: Artifact) -> dict[str, object]:
    """Count the operations of the saved program; which processor runs them is decided by the device.

    Returns:
        Of the GEMMs with fixed weights, `gemms_int8` have quantizers in front of integer weights (what a device
        with int8 products can run as such) and `gemms_integer_weights` have integer weights at all;
        `attention_fused` counts attention blocks in one operation, `attention_decomposed` those in several.
    """
    operations = [op for op in read_function(artifact.path).operations if op.op_type != "const"]
    gemms = [op for op in operations if op.op_type in {"linear", "conv"}]
    stored = [op.weight.op is not None and op.weight.op.op_type.startswith(_CONSTANTS) for op in gemms]
    count = Counter(op.op_type for op in operations)
    return {
        "runtime": "read from the saved program; Core ML places operations on the device itself",
        "gemms": len(gemms),
        "gemms_integer_weights": sum(stored),
        "gemms_int8": sum(bool(quantizers(op)) and whole for op, whole in zip(gemms, stored, strict=True)),
        "gemms_float": len(gemms) - sum(stored),
        "attention_fused": count["scaled_dot_product_attention"],
        "attention_decomposed": count["softmax"],
        "ops": dict(sorted(count.items())),
    }
