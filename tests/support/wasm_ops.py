"""One-node models of the fused ops in the WebAssembly library, computed by Node instead of ONNX Runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from base64 import b64decode, b64encode
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.native import wasm

UNIT = os.environ.get("EDGEKIT_TEST_WASM", "")
"""The instruction set of the WebAssembly library that the parity tests run on; empty: the native library."""

SCRIPT = Path(__file__).with_suffix(".mjs")
RELAXED = "--experimental-wasm-relaxed-simd"  # Node 20 has it behind this flag, later ones always
TIERS = {"speed": 0, "quality": 1, "exact": 2}
MODES = {"f32": 0, "hybrid": 1, "u8": 2, "i16": 3}


def missing() -> str | None:
    """What tests of the WebAssembly library lack here, None when all is there."""
    if shutil.which("node") is None:
        return "Node is not installed"
    return None if wasm.zig() else "zig is not installed: pip install ziglang"


@cache
def node() -> tuple[str, ...]:
    """The command of Node, relaxed SIMD switched on."""
    known = subprocess.run(["node", "--v8-options"], capture_output=True, text=True, check=True).stdout
    return ("node", RELAXED) if RELAXED in known else ("node",)


class Ops:
    """A Node process that holds one library."""

    def __init__(self, library: Path, isa: str = "") -> None:
        self.process = subprocess.Popen(
            [*node(), str(SCRIPT), str(library), *([isa] if isa else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = self._read()
        self.isa: str = said["isa"]
        self.isas: list[str] = said["isas"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def ask(self, question: dict[str, Any]) -> np.ndarray:
        """The float32 values that answer a question."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return np.frombuffer(b64decode(self._read()["y"]), np.float32)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "error" in said:
            raise RuntimeError(said["error"])
        return said


@cache
def ops() -> Ops:
    """The library with the instruction set of UNIT, in a process that lives as long as this one."""
    return Ops(wasm.wasm_libraries()[0], UNIT)


def run(model: bytes, x: np.ndarray) -> np.ndarray:
    """y of a one-node model of `tests/support/ops_models.py`."""
    graph = onnx.load_from_string(model).graph
    node = graph.node[0]
    arrays = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    constants = [arrays.get(name) for name in node.input[1:]]
    if node.op_type == "FusedQKVAttention":
        rope = (constants[0], constants[1]) if constants else None
        return attention(x, given["num_heads"], given["scale"], MODES[given["mode"].decode()], rope)
    return _block(x, node.op_type, constants, given)


def attention(qkv: np.ndarray, heads: int, scale: float, mode: int, rope: Any = None) -> np.ndarray:
    """edgekit_attention_run: (B, N, 3 * D) -> (B, N, D)."""
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    question = {"kind": "attention", "x": _text(qkv), "batch": batch, "tokens": tokens, "width": width, "mode": mode}
    y = ops().ask(question | {"heads": heads, "scale": scale} | _rope(rope))
    return y.reshape(batch, tokens, width)


def _block(x: np.ndarray, op: str, constants: list[np.ndarray | None], given: dict[str, Any]) -> np.ndarray:
    """edgekit_block_run; `constants` are the op's inputs behind x."""
    is_float = op == "ViTBlock"
    parts = 2 if is_float else 3
    norm1, norm2, rest = constants[:2], constants[2 + 2 * parts : 4 + 2 * parts], constants[4 + 4 * parts :]
    groups = [*(2 + parts * i for i in range(2)), *(4 + parts * i for i in range(2, 4))]
    linears = [constants[first : first + parts] for first in groups]
    gain, rope = (None, rest) if is_float else ((rest or [None])[0], rest[1:])
    hidden, fc1 = linears[3][0].shape[0 if is_float else 1], len(linears[2][-1])
    spec = {
        "width": x.shape[-1],
        "hidden": hidden,
        "heads": given["num_heads"],
        "scale": given["scale"],
        "epsilon": given["epsilon"],
        "tier": TIERS["exact" if is_float else given["tier"].decode()],
        "attention": -1,
        "norms": [_text(each) for each in (*norm1, *norm2)],
        "linears": [[None, None, _text(w[1]), _text(w[0])] if is_float else [*map(_text, w), None] for w in linears],
        "gain": _text(gain),
        "activation": int(fc1 == 2 * hidden),
    }
    question = {"kind": "block", "x": _text(x), "batch": x.shape[0], "tokens": x.shape[1], "spec": spec}
    return ops().ask(question | _rope(rope if rope and rope[0] is not None else None)).reshape(x.shape)


def _text(array: np.ndarray | None) -> str | None:
    return None if array is None else b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _rope(rope: Any) -> dict[str, Any]:
    return {} if rope is None else {"rope": {"cos": _text(rope[0]), "sin": _text(rope[1]), "tokens": len(rope[0])}}
