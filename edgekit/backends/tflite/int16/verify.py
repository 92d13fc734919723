"""Compares a TFLite file of integers alone with its plan number by number, and by running it on calibration images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekit.artifact import OUTPUT_NAMES
from edgekit.backends.tflite.builder import channels_last
from edgekit.backends.tflite.runner import cores, dequantized, quantized, without_greeting
from edgekit.backends.verification import refuse_differences
from edgekit.errors import ExportError
from edgekit.metrics import sqnr_db

if TYPE_CHECKING:
    from edgekit.plan.quant import GemmPlan, QuantPlan

LEAST_SQNR_DB = 15.0  # what a right file exceeds by far, and a tensor that overflows does not reach
_FLOATS = {schema.TensorType.FLOAT16, schema.TensorType.FLOAT32, schema.TensorType.FLOAT64}


def verify_integer(path: Path, plan: QuantPlan, pixels: np.ndarray, expected: np.ndarray) -> float:
    """Check weights and scales against `plan`, that nothing is float, and what the file computes.

    Args:
        path: of the file.
        plan: that it was written from.
        pixels: (n, 3, H, W) calibration images.
        expected: (n, N, D) `last_hidden_state` of the same graph in float.

    Returns:
        SQNR in dB of the file on `pixels`.

    Raises:
        ExportError: a number differs, a tensor is float, or the outputs are far from those expected.
    """
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    problems = [f"{tensor.name.decode()} is float" for tensor in graph.tensors if tensor.type in _FLOATS]
    producers = {graph.tensors[int(node.outputs[0])].name.decode(): node for node in graph.operators}
    for gemm in plan.gemms.values():
        problems += _differences(model, producers.get(gemm.name), gemm)
    refuse_differences(path, problems)
    reached = sqnr_db(expected, _run(path, pixels))
    if reached < LEAST_SQNR_DB:
        raise ExportError(
            f"the w8a16 file reaches {reached:.1f} dB on images that it was calibrated on",
            why=f"{LEAST_SQNR_DB:.0f} dB are expected",
            fix="--precision w8a8",
        )
    return reached


def _differences(model: Any, node: Any | None, gemm: GemmPlan) -> Iterator[str]:
    """The differences between file and plan for one GEMM, one sentence each."""
    if node is None:
        yield f"{gemm.name} is missing"
        return
    graph = model.subgraphs[0]
    given, weight, bias = (graph.tensors[int(index)] for index in node.inputs)
    expected = gemm.weight
    if len(weight.shape) == 4:
        expected = channels_last(expected.reshape(len(expected), weight.shape[3], *weight.shape[1:3]))
    stored = np.asarray(model.buffers[weight.buffer].data, np.uint8).view(np.int8)
    if not np.array_equal(stored, expected.ravel()):
        yield f"{gemm.name} has other integers"
    scale = np.float32(weight.quantization.scale)
    if not np.array_equal(scale, gemm.weight_scale[:, 0]) or np.any(weight.quantization.zeroPoint):
        yield f"{gemm.name} has other weight scales"
    accumulator_scale = np.float64(given.quantization.scale[0]) * gemm.weight_scale[:, 0]
    data = np.asarray(model.buffers[bias.buffer].data, np.uint8)
    integers = data.view(np.int64 if bias.type == schema.TensorType.INT64 else np.int32).astype(np.float64)
    if len(weight.shape) == 4:  # the zero point of the int8 input is in it
        source = graph.tensors[int(graph.inputs[0])]
        integers = integers + int(source.quantization.zeroPoint[0]) * gemm.weight.astype(np.int64).sum(axis=1)
    if np.abs(integers - gemm.bias_dynamic / accumulator_scale).max() > 1 + 1e-6 * np.abs(integers).max():
        yield f"{gemm.name} has another bias"


def _run(path: Path, pixels: np.ndarray) -> np.ndarray:
    """`last_hidden_state` (n, N, D) in float32."""
    with without_greeting():
        interpreter = Interpreter(model_path=str(path), num_threads=cores())
        interpreter.allocate_tensors()
    (fed,) = interpreter.get_input_details()
    hidden = next(d for d in interpreter.get_output_details() if d["name"] == OUTPUT_NAMES[0])
    rows = []
    for image in pixels:
        interpreter.set_tensor(fed["index"], quantized(image[None].transpose(0, 2, 3, 1), fed))
        interpreter.invoke()
        rows.append(dequantized(interpreter.get_tensor(hidden["index"]), hidden))
    return np.concatenate(rows)
