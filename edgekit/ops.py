"""The public ways to the libraries of fused ops: an alias of `edgekit.native`."""

from edgekit.native import NativeStatus, isa, native_status, openvino_extension, ort_library

__all__ = ["NativeStatus", "isa", "native_status", "openvino_extension", "ort_library"]
