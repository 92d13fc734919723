"""Speed of the fused ops' kernels against the ceiling of their dot instruction, for each instruction set of this CPU.

    python -m benchmarks.kernels [--csv benchmarks/results/kernels.csv]

One thread. `share` is the GEMM kernel on packed operands over the same instruction in registers alone; attention is one
ViT-S layer (6 heads of 64), in CPU time, so that other processes disturb it less.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.support.rows import write_csv
from edgekit import native as ops

# name, edgekit_tier, bits of the weights (normal, the largest at 4 standard deviations)
FORMATS = (("speed, 7-bit weights", 0, 7), ("speed, 8-bit weights", 0, 8), ("quality", 1, 8), ("exact", 2, 8))
GEMMS = {"qkv": (48, 384, 1152), "proj": (48, 384, 384), "fc1": (48, 384, 1536), "fc2": (48, 1536, 384)}
MODES = ("f32", "hybrid", "u8", "i16")
HEADS, WIDTH = 6, 384


def measure() -> list[dict[str, object]]:
    """Rows of the instruction set in use."""
    library = ctypes.CDLL(str(ops.ort_library()))
    library.edgekit_ceiling_gmacs.restype = library.edgekit_gemm_gmacs.restype = ctypes.c_double
    library.edgekit_gemm_gmacs.argtypes = [ctypes.c_int32, ctypes.c_int32, *[ctypes.c_int64] * 3]
    rows: list[dict[str, object]] = []
    for name, tier, bits in FORMATS:
        ceiling = max(library.edgekit_ceiling_gmacs(tier) for _ in range(3))
        for gemm, shape in GEMMS.items():
            speed = library.edgekit_gemm_gmacs(tier, bits, *shape)
            rows.append(
                {
                    "isa": ops.isa(),
                    "kernel": f"GEMM {gemm}, {name}",
                    "shape": "x".join(map(str, shape)),
                    "gmacs": round(speed, 1),
                    "ceiling_gmacs": round(ceiling, 1),
                    "share": round(speed / ceiling, 3),
                    "cpu_ms": "",
                }
            )
    for tokens in (257, 1370):
        for mode, name in enumerate(MODES):
            seconds = _attention(library, tokens, mode)
            rows.append(
                {
                    "isa": ops.isa(),
                    "kernel": f"attention {name}",
                    "shape": f"{tokens} tokens",
                    "gmacs": round(2 * tokens**2 * WIDTH / seconds / 1e9, 1),
                    "ceiling_gmacs": "",
                    "share": "",
                    "cpu_ms": round(seconds * 1e3, 3),
                }
            )
    return rows


def _attention(library: ctypes.CDLL, tokens: int, mode: int) -> float:
    """Least CPU seconds of a layer."""
    qkv = np.random.default_rng(0).standard_normal((1, tokens, 3 * WIDTH)).astype(np.float32)
    out = np.empty((1, tokens, WIDTH), np.float32)
    pointer = ctypes.POINTER(ctypes.c_float)
    sizes = [ctypes.c_int64(size) for size in (1, tokens, WIDTH, HEADS)]
    best = float("inf")
    for _ in range(40 if tokens < 1000 else 6):
        start = time.thread_time()
        status = library.edgekit_attention_run(
            qkv.ctypes.data_as(pointer),
            out.ctypes.data_as(pointer),
            *sizes,
            ctypes.c_float(0.125),
            ctypes.c_int32(mode),
            None,
            None,
        )
        best = min(best, time.thread_time() - start)
        if status:
            raise SystemExit("the attention kernel refused")
    return best


def of_each_isa(module: str) -> list[dict[str, object]]:
    """Rows that a benchmark prints with --one, for each instruction set; a process chooses its kernels once."""
    ops.ort_library()
    rows: list[dict[str, object]] = []
    for isa in ops.native_status().isas:
        done = subprocess.run(
            [sys.executable, "-m", module, "--one"],
            env={**os.environ, "EDGEKIT_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        )
        rows += json.loads(done.stdout)
    return rows


def main() -> None:
    """All instruction sets of this CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path, help="also write the rows there")
    parser.add_argument("--one", action="store_true", help="only the instruction set in use, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure()))
        return
    rows = of_each_isa("benchmarks.kernels")
    for row in rows:
        share = f"{row['share']:>6.0%} of {row['ceiling_gmacs']}" if row["share"] else f"{row['cpu_ms']:>8} ms"
        print(f"{row['isa']:<12} {row['kernel']:<32} {row['shape']:<12} {row['gmacs']:>7} GMAC/s {share}")
    write_csv(rows, options.csv)


if __name__ == "__main__":
    main()
