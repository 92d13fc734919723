"""Fused vision-transformer ops: their definition in numpy, native kernels, and the pass that puts them into a graph."""

from edgekit.native.library import NativeStatus, isa, native_status, ort_library
from edgekit.native.openvino_library import openvino_extension

__all__ = ["NativeStatus", "isa", "native_status", "openvino_extension", "ort_library"]
