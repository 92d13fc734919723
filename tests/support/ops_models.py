"""One-node ONNX models of the fused ops with seeded constants, for the tests of the ops."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgekit import native as ops
from edgekit.native.reference import BlockWeights, FloatBlockWeights, FloatLinear, IntegerLinear, Rope
from tests.support import wasm_ops


def block_weights(
    width: int, hidden: int, *, bits: int = 8, gain: bool = False, gated: bool = False, seed: int = 0
) -> BlockWeights:
    """`gated` makes the feed-forward part SwiGLU: fc1 has 2 * hidden outputs."""
    rng = np.random.default_rng(seed)
    top = 2 ** (bits - 1) - 1

    def norm() -> tuple[np.ndarray, np.ndarray]:
        return (1 + 0.1 * rng.standard_normal(width)).astype(np.float32), _noise(rng, width, 0.1)

    def linear(out: int, inner: int) -> IntegerLinear:
        weight = np.clip(np.rint(rng.standard_normal((out, inner)) * top / 3.5), -top, top).astype(np.int8)
        weight.flat[0] = top
        scale = (3.5 / top / np.sqrt(inner) * (0.5 + rng.random(out))).astype(np.float32)
        return IntegerLinear(weight, scale, _noise(rng, out, 0.1))

    attention = norm(), linear(3 * width, width), linear(width, width)
    weights = BlockWeights(*attention, norm(), linear((1 + gated) * hidden, width), linear(width, hidden))
    return replace(weights, fc2_gain=(0.5 + rng.random(hidden)).astype(np.float32)) if gain else weights


def rope_tables(tokens: int, dim: int, seed: int = 0) -> Rope:
    """Cosine and sine (tokens, dim / 2) of angles all around."""
    angles = np.random.default_rng(seed).uniform(-np.pi, np.pi, (tokens, dim // 2))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def block_model(weights: BlockWeights, *, rope: Rope | None = None, **attributes: object) -> bytes:
    given = {"num_heads": 2, "scale": 0.3, "epsilon": 1e-6, "tier": "speed", **attributes}
    arrays = [numpy_helper.from_array(array, f"c{i}") for i, array in enumerate(weights.inputs())]
    if rope is not None and weights.fc2_gain is None:
        arrays.append(None)
    width = len(weights.norm1[0])
    return node_model("QViTBlock", width, width, [*arrays, *_tables(rope)], given)


def float_weights(width: int, hidden: int, *, gated: bool = False, seed: int = 0) -> FloatBlockWeights:
    integers = block_weights(width, hidden, gated=gated, seed=seed)

    def linear(part: IntegerLinear) -> FloatLinear:
        return FloatLinear(np.ascontiguousarray((part.weight * part.scale[:, None]).T), part.bias)

    return FloatBlockWeights(
        integers.norm1,
        linear(integers.qkv),
        linear(integers.proj),
        integers.norm2,
        linear(integers.fc1),
        linear(integers.fc2),
    )


def float_block_model(weights: FloatBlockWeights, *, rope: Rope | None = None, **attributes: object) -> bytes:
    given = {"num_heads": 2, "scale": 0.3, "epsilon": 1e-6, **attributes}
    arrays = [numpy_helper.from_array(array, f"c{i}") for i, array in enumerate(weights.inputs())]
    width = len(weights.norm1[0])
    return node_model("ViTBlock", width, width, [*arrays, *_tables(rope)], given)


def attention_model(width: int, *, rope: Rope | None = None, **attributes: object) -> bytes:
    given = {"scale": 0.2, "mode": "f32", **attributes}
    return node_model("FusedQKVAttention", 3 * width, width, _tables(rope), given)


def _tables(rope: Rope | None) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(table, name) for table, name in zip(rope or (), ("cos", "sin"), strict=False)]


def node_model(
    op: str,
    width_in: object,
    width_out: object,
    constants: list[onnx.TensorProto | None],
    attributes: dict[str, object],
) -> bytes:
    """One node; a constant that is None is an optional input left out."""
    names = [c.name if c else "" for c in constants]
    node = helper.make_node(op, ["x", *names], ["y"], domain="edgekit", **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "N", width_in])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "N", width_out])],
        [c for c in constants if c],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgekit", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


class Linear(ctypes.Structure):
    """`edgekit_linear` of edgekit_ops.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("weight", "scale", "bias", "exact"))


class RopeView(ctypes.Structure):
    """`edgekit_rope` of edgekit_ops.h."""

    _fields_ = (("cos", ctypes.c_void_p), ("sin", ctypes.c_void_p), ("tokens", ctypes.c_int64))


class Spec(ctypes.Structure):
    """`edgekit_block_spec` of edgekit_ops.h; keeps the arrays it points at."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("width", "hidden", "heads")),
        *((name, ctypes.c_float) for name in ("scale", "epsilon")),
        *((name, ctypes.c_int32) for name in ("tier", "attention")),
        *((name, ctypes.c_void_p) for name in ("norm1_weight", "norm1_bias", "norm2_weight", "norm2_bias")),
        *((name, Linear) for name in ("qkv", "proj", "fc1", "fc2")),
        ("fc2_gain", ctypes.c_void_p),
        ("activation", ctypes.c_int32),
    )


def spec_of(weights: BlockWeights, heads: int = 2) -> Spec:
    """A block of the speed tier for the C interface."""
    held = []

    def at(array: np.ndarray) -> int:
        held.append(np.ascontiguousarray(array))
        return int(held[-1].ctypes.data)

    norms = [at(array) for norm in (weights.norm1, weights.norm2) for array in norm]
    linears = [
        Linear(at(part.weight), at(part.scale), at(part.bias), None)
        for part in (weights.qkv, weights.proj, weights.fc1, weights.fc2)
    ]
    spec = Spec(len(weights.norm1[0]), len(weights.fc1.bias), heads, 0.3, 1e-6, 0, -1, *norms, *linears, None, 0)
    spec.held = held
    return spec


def session(model: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(ops.ort_library()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def isa() -> str:
    """The instruction set that `run` and `native_attention` compute with."""
    return wasm_ops.UNIT or ops.isa()


def run(model: bytes, x: np.ndarray, threads: int = 1) -> np.ndarray:
    if wasm_ops.UNIT:
        return wasm_ops.run(model, x)
    return session(model, threads).run(None, {"x": x})[0]


def native_attention(qkv: np.ndarray, heads: int, scale: float, mode: int) -> np.ndarray:
    """Through the C interface: the ONNX op does not offer bfloat16."""
    if wasm_ops.UNIT:
        return wasm_ops.attention(qkv, heads, scale, mode)
    library = ctypes.CDLL(str(ops.ort_library()))
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    out = np.empty((batch, tokens, width), np.float32)
    pointer = ctypes.POINTER(ctypes.c_float)
    sizes = [ctypes.c_int64(size) for size in (batch, tokens, width, heads)]
    given = np.ascontiguousarray(qkv, np.float32).ctypes.data_as(pointer), out.ctypes.data_as(pointer)
    assert not library.edgekit_attention_run(*given, *sizes, ctypes.c_float(scale), ctypes.c_int32(mode), None, None)
    return out


def _noise(rng: np.random.Generator, size: int, scale: float) -> np.ndarray:
    return (scale * rng.standard_normal(size)).astype(np.float32)
