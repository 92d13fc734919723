"""Import the installed wheel and run a fused op of its library, in C: what a wheel must do on the machine it is for."""

from __future__ import annotations

import ctypes
import sys
from importlib.metadata import distribution

import numpy as np

import edgekit
from edgekit import ops
from edgekit.native.reference import fused_qkv_attention


def main() -> int:
    """0 when the op gives what its definition in numpy gives."""
    files = [str(file) for file in distribution("edgekit").files or ()]
    path = ops.ort_library()
    shipped = any(file.endswith(f"native/_lib/{path.name}") for file in files)
    status = ops.native_status()
    library = ctypes.CDLL(str(path))
    batch, tokens, heads, dim = 2, 17, 2, 32
    qkv = np.random.default_rng(0).standard_normal((batch, tokens, 3 * heads * dim)).astype(np.float32)
    out = np.empty((batch, tokens, heads * dim), np.float32)
    floats = ctypes.POINTER(ctypes.c_float)
    sizes = [ctypes.c_int64(number) for number in (batch, tokens, heads * dim, heads)]
    code = library.edgekit_attention_run(
        qkv.ctypes.data_as(floats), out.ctypes.data_as(floats), *sizes, ctypes.c_float(0.2), 0, None, None
    )
    expected = fused_qkv_attention(qkv, heads=heads, scale=np.float32(0.2), mode="f32")
    error = float(np.linalg.norm(out - expected) / np.linalg.norm(expected))
    print(
        f"edgekit {edgekit.__version__}, Python {sys.version.split()[0]}, {path.name}, {status.isa}, error {error:.1e}"
    )
    return int(code != 0 or not shipped or status.stale or not error < 3e-6)


if __name__ == "__main__":
    sys.exit(main())
