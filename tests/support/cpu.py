"""What the tests expect of this machine's CPU: right on every kind, and never skipped for one."""

from __future__ import annotations

from edgekit.artifact import Format
from edgekit.backends import get_backend


def int8_gemms(format_: Format, planned: int) -> int:
    """How many of the planned GEMMs run in int8 here.

    OpenVINO's runner multiplies 8-bit weights as floats where u8*s8 products saturate (AVX2 without VNNI). Where
    all blocks run in edgekit's own kernels the patch embedding is float.
    """
    if get_backend(format_).own_kernels:
        return planned - 1
    if format_ != "openvino":
        return planned
    from edgekit.backends.openvino.runner import int8_saturates

    return 0 if int8_saturates() else planned
