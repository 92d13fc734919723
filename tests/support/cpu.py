"""What the tests expect of this machine's CPU: right on every kind, and never skipped for one."""

from __future__ import annotations

from edgekit.artifact import Format


def int8_gemms(format_: Format, planned: int) -> int:
    """How many of the planned GEMMs run in int8 here.

    OpenVINO's runner multiplies 8-bit weights as floats where u8*s8 products saturate (AVX2 without VNNI).
    """
    if format_ != "openvino":
        return planned
    from edgekit.backends.openvino.runner import int8_saturates

    return 0 if int8_saturates() else planned
