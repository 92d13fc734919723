"""Placement in libedgekit: its own kernels throughout, and which linear layers are of integers."""

from __future__ import annotations

from edgekit.artifact import Artifact
from edgekit.backends.edgekit.container import description_of, gemms_of, types_of
from edgekit.native import isa


def audit_file(artifact: Artifact) -> dict[str, object]:
    """Count from the header.

    Returns:
        Counts of GEMMs with fixed weights (the patch embedding included) by the numbers they multiply, with the names
        of the float ones, and of attentions and whole blocks that are one op.
    """
    description, types = description_of(artifact.path), types_of(artifact.path)
    names = gemms_of(description)
    floats = ["patch_embed.proj", *(name for name in names if types[f"{name}.weight"] == "F32")]
    kind = "gemms_int16" if description["tier"] == "quality" else "gemms_int8"
    blocks = description["network"]["depth"]
    return {
        "runtime": f"libedgekit, {isa()}",
        "gemms": len(names) + 1,
        kind: len(names) + 1 - len(floats),
        "gemms_float": len(floats),
        "float_gemms": floats if len(floats) <= len(names) else [],
        "attention_fused": blocks,
        "blocks_fused": blocks,
    }
