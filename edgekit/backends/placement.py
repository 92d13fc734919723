"""Says in one line what an audit found: which GEMMs run in integers, which attention is one op, what fell back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

_KINDS = (
    ("gemms_int8", "INT8"),
    ("gemms_int16", "INT16 by INT8"),
    ("gemms_int4", "INT4"),
    ("gemms_weight_only", "float with integer weights"),
    ("gemms_float", "float"),
    ("gemms_untraced", "untraced"),
)


def placement(audit: Mapping[str, object]) -> str:
    """Summary of an audit: "of 49 GEMMs 48 INT8, 1 float; 12 attentions in one op each, 12 of them whole blocks".

    Args:
        audit: of `Backend.audit`; keys that a backend does not have are left out.
    """
    if "unknown" in audit:
        return str(audit["unknown"])
    total = _count(audit, "gemms")
    kinds = [f"{_count(audit, key)} {words}" for key, words in _KINDS if _count(audit, key)]
    parts = [f"of {total} GEMMs {', '.join(kinds)}"] if total else []
    if fused := _count(audit, "attention_fused"):
        blocks = _count(audit, "blocks_fused")
        parts.append(f"{fused} attentions in one op each" + (f", {blocks} of them whole blocks" if blocks else ""))
    if apart := _in_parts(audit):
        parts.append(f"{apart} attentions in several ops")
    if integers := _count(audit, "attention_products_int8"):
        parts.append(f"{integers} attention products INT8")
    if wide := _count(audit, "attention_products_int16"):
        parts.append(f"{wide} attention products INT16")
    if late := cast("list[str]", audit.get("planned_but_not_int8", [])):
        parts.append(f"planned for INT8 but not run so: {', '.join(late)}")
    if partitions := _count(audit, "partitions"):
        outside = sum(cast("Mapping[str, int]", audit.get("outside_xnnpack", {})).values())
        operators = _count(audit, "operators")
        parts.append(
            f"XNNPACK runs {operators - outside} of {operators} operators in {partitions} partition"
            + "s" * (partitions > 1)
        )
    elif audit.get("outside_xnnpack"):
        parts.append(f"XNNPACK runs none of {_count(audit, 'operators')} operators")
        audit = {**audit, "outside_xnnpack": {}}
    for key, words in (("fallbacks", "in reference code"), ("outside_xnnpack", "outside XNNPACK")):
        if layers := cast("Mapping[str, int]", audit.get(key, {})):
            parts.append(f"{words}: " + ", ".join(f"{count} {layer}" for layer, count in layers.items()))
    return "; ".join(parts) or "nothing known"


def _in_parts(audit: Mapping[str, object]) -> int:
    """Attentions that are more than one op: said outright, or two products each."""
    if "attention_blocks" in audit:
        return _count(audit, "attention_blocks") - _count(audit, "attention_fused")
    products = sum(_count(audit, f"attention_products_{kind}") for kind in ("float", "int8", "int16"))
    return _count(audit, "attention_decomposed") or products // 2


def _count(audit: Mapping[str, object], key: str) -> int:
    value = audit.get(key, 0)
    return value if isinstance(value, int) else 0
