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
RELAXED = ("--experimental-wasm-relaxed-simd", "--no-liftoff")
"""Node 20 has relaxed SIMD behind a flag, and its baseline compiler makes wrong code of it; Node 24 has it right."""
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
    return ("node", *RELAXED) if RELAXED[0] in known else ("node",)


class Node:
    """A Node process that answers questions, a line of JSON for a line of JSON; `opened` is what it says first."""

    def __init__(self, script: Path, *words: str | Path) -> None:
        command = [*node(), str(script), *map(str, words)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.opened = self._read()

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer; RuntimeError where it is an error."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "error" in said:
            raise RuntimeError(said["error"])
        return said


def kernels(isa: str) -> Node:
    """A process with the library of an instruction set. RuntimeError where this Node does not compute it exactly."""
    wasm.wasm_libraries()
    return Node(SCRIPT, wasm.FOLDER / wasm.file_of(isa))


@cache
def _ops() -> Node:
    """The library with the instruction set of UNIT, in a process that lives as long as this one."""
    return kernels(UNIT)


def _ask(question: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    return values_of(_ops().ask(question)["y"], np.float32).reshape(shape)


def values_of(text: str, dtype: Any) -> np.ndarray:
    """The numbers in a base64 text."""
    return np.frombuffer(b64decode(text), dtype)


def text_of(array: np.ndarray | None) -> str | None:
    """The numbers of an array as base64 text."""
    return None if array is None else b64encode(np.ascontiguousarray(array).tobytes()).decode()


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
    question = {"kind": "attention", "x": text_of(qkv), "batch": batch, "tokens": tokens, "width": width, "mode": mode}
    return _ask(question | {"heads": heads, "scale": scale} | _rope(rope), (batch, tokens, width))


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
        "norms": [text_of(each) for each in (*norm1, *norm2)],
        "linears": [
            [None, None, text_of(w[1]), text_of(w[0])] if is_float else [*map(text_of, w), None] for w in linears
        ],
        "gain": text_of(gain),
        "activation": int(fc1 == 2 * hidden),
    }
    question = {"kind": "block", "x": text_of(x), "batch": x.shape[0], "tokens": x.shape[1], "spec": spec}
    return _ask(question | _rope(rope if rope and rope[0] is not None else None), x.shape)


def _rope(rope: Any) -> dict[str, Any]:
    return {} if rope is None else {"rope": {"cos": text_of(rope[0]), "sin": text_of(rope[1]), "tokens": len(rope[0])}}
