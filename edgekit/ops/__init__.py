"""Fused vision-transformer ops: their definition in numpy, native kernels, and the pass that puts them into a graph."""

from edgekit.ops.library import NativeStatus, isa, native_status, ort_library

__all__ = ["NativeStatus", "isa", "native_status", "ort_library"]
