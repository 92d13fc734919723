"""Fused vision-transformer ops: their definition in numpy, native kernels, and the pass that puts them into a graph."""

from edgekit.ops.library import NativeStatus, isa, native_status, ort_library
from edgekit.ops.openvino_library import openvino_extension

__all__ = ["NativeStatus", "isa", "native_status", "openvino_extension", "ort_library"]
