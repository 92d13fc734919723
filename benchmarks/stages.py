"""Where the time of a fused ViT-S block goes, against the roofline of its integer dot instruction.

    python -m benchmarks.stages [--csv benchmarks/results/stages.csv]

One thread, CPU time. `ideal` is all integer GEMMs at the instruction's ceiling, `gemms` what the kernel takes for them;
`rest` is the block less its GEMMs and attention: LayerNorm, quantization per token, GELU, residuals, scratch traffic.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.kernels import HEADS, WIDTH, of_each_isa
from benchmarks.support.rows import write_csv
from edgekit import native as ops

HIDDEN, ROWS = 4 * WIDTH, 48  # rows the block's GEMMs run on at a time
LINEARS = {"qkv": (3 * WIDTH, WIDTH), "proj": (WIDTH, WIDTH), "fc1": (HIDDEN, WIDTH), "fc2": (WIDTH, HIDDEN)}
# name, edgekit_tier, bits of the weights, attention mode of its blocks
TIERS = (("speed, 7-bit weights", 0, 7, 1), ("speed", 0, 8, 1), ("quality", 1, 8, 3), ("exact", 2, 8, 0))
REPEATS = {257: 60, 1370: 12}

Floats = ctypes.POINTER(ctypes.c_float)


class _Linear(ctypes.Structure):
    _fields_ = (("weight", ctypes.POINTER(ctypes.c_int8)), ("scale", Floats), ("bias", Floats), ("exact", Floats))


class _Spec(ctypes.Structure):
    """`edgekit_block_spec` of edgekit_ops.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("width", "hidden", "heads")),
        *((name, ctypes.c_float) for name in ("scale", "epsilon")),
        *((name, ctypes.c_int32) for name in ("tier", "attention")),
        *((name, Floats) for name in ("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")),
        *((name, _Linear) for name in LINEARS),
        ("fc2_gain", Floats),
        ("activation", ctypes.c_int32),
    )


def measure() -> list[dict[str, object]]:
    """Rows of the instruction set in use."""
    library = ctypes.CDLL(str(ops.ort_library()))
    library.edgekit_ceiling_gmacs.restype = library.edgekit_gemm_gmacs.restype = ctypes.c_double
    library.edgekit_gemm_gmacs.argtypes = [ctypes.c_int32, ctypes.c_int32, *[ctypes.c_int64] * 3]
    rows = []
    for name, tier, bits, mode in TIERS:
        ceiling = max(library.edgekit_ceiling_gmacs(tier) for _ in range(3)) * 1e9
        speeds = {
            part: library.edgekit_gemm_gmacs(tier, bits, ROWS, shape[1], shape[0]) * 1e9
            for part, shape in LINEARS.items()
        }
        block = _block(library, tier, 2 ** (bits - 1) - 1)
        for tokens, repeats in REPEATS.items():
            macs = {part: tokens * out * inputs for part, (out, inputs) in LINEARS.items()}
            whole = _least(repeats, _block_call(library, block, tokens))
            attention = _least(repeats, _attention_call(library, tokens, mode))
            gemms = sum(macs[part] / speeds[part] for part in LINEARS)
            rows.append(
                {
                    "isa": ops.isa(),
                    "tier": name,
                    "tokens": tokens,
                    "block_ms": whole * 1e3,
                    "ideal_ms": sum(macs.values()) / ceiling * 1e3,
                    "gemms_ms": gemms * 1e3,
                    "attention_ms": attention * 1e3,
                    "rest_ms": (whole - gemms - attention) * 1e3,
                }
            )
        library.edgekit_block_destroy(block)
    return [{k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def _block(library: ctypes.CDLL, tier: int, limit: int) -> ctypes.c_void_p:
    """A block of normal weights, as the library's own GEMM benchmark draws them."""
    draw = np.random.default_rng(0)
    held = []  # until the library has copied them

    def floats(n: int, scale: float) -> ctypes._Pointer[ctypes.c_float]:
        held.append(np.full(n, scale, np.float32))
        return held[-1].ctypes.data_as(Floats)

    linears = []
    for out, inputs in LINEARS.values():
        normal = np.rint(draw.normal(0, limit / 4, (out, inputs)))
        held.append(np.clip(normal, -limit, limit).astype(np.int8))
        integers = held[-1].ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        linears.append(_Linear(integers, floats(out, 1e-3), floats(out, 0), floats(out * inputs, 1e-3)))
    norms = [floats(WIDTH, value) for value in (1.0, 0.0, 1.0, 0.0)]
    spec = _Spec(WIDTH, HIDDEN, HEADS, 0.125, 1e-6, tier, -1, *norms, *linears, None, 0)
    block = ctypes.c_void_p()
    if library.edgekit_block_create(ctypes.byref(spec), ctypes.byref(block)):
        raise SystemExit("the library refused the block")
    return block


def _block_call(library: ctypes.CDLL, block: ctypes.c_void_p, tokens: int):
    x, y = _tokens(tokens, WIDTH), np.empty((tokens, WIDTH), np.float32)
    return lambda: library.edgekit_block_run(
        block, x.ctypes.data_as(Floats), y.ctypes.data_as(Floats), ctypes.c_int64(1), ctypes.c_int64(tokens), None, None
    )


def _attention_call(library: ctypes.CDLL, tokens: int, mode: int):
    qkv, out = _tokens(tokens, 3 * WIDTH), np.empty((tokens, WIDTH), np.float32)
    sizes = [ctypes.c_int64(size) for size in (1, tokens, WIDTH, HEADS)]
    return lambda: library.edgekit_attention_run(
        qkv.ctypes.data_as(Floats),
        out.ctypes.data_as(Floats),
        *sizes,
        ctypes.c_float(0.125),
        ctypes.c_int32(mode),
        None,
        None,
    )


def _tokens(tokens: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((tokens, width)).astype(np.float32)


def _least(repeats: int, call) -> float:
    """Least CPU seconds of a call: other processes only ever add."""
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        status = call()
        best = min(best, time.thread_time() - start)
        if status:
            raise SystemExit("the kernel refused")
    return best


def main() -> None:
    """All instruction sets of this CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="also write the rows there")
    parser.add_argument("--one", action="store_true", help="only the instruction set in use, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure()))
        return
    rows = of_each_isa("benchmarks.stages")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_csv(rows, options.csv)


if __name__ == "__main__":
    main()
