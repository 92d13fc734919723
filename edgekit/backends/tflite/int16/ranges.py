"""Sees the ranges of every tensor of an integer TFLite model: runs the same graph in float on calibration images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES, Preprocess
from edgekit.backends.tflite.flatbuffer import Value
from edgekit.backends.tflite.int16.emitter import write_integer
from edgekit.backends.tflite.int16.fixed_point import FLOOR, Border, FixedPoint, Ranges
from edgekit.backends.tflite.runner import cores, without_greeting

if TYPE_CHECKING:
    from edgekit.plan.quant import QuantPlan

_CUTS = np.linspace(0.3, 1.0, 71)  # shares of the range seen that an int8 output may keep


def seen_ranges(
    plan: QuantPlan, pixels: np.ndarray, preprocess: Preprocess, progress: Callable[[int, int], None] | None = None
) -> tuple[Ranges, np.ndarray]:
    """Ranges over `pixels` (n, 3, H, W), and the float model's `last_hidden_state` (n, N, D) on the way.

    The borders: the input holds every picture there is; of each output the ends are cut off that cost less than finer
    steps gain, in squared error over all of `pixels`.
    """
    sheet, inputs, outputs = write_integer(plan, None)
    watches = {name: _extreme(sheet, name, value) for name, value in sheet.watched.items()}
    interpreter = _opened(sheet.graph.serialize(inputs, {**outputs, **watches}, "ranges", {}))
    (fed,) = interpreter.get_input_details()
    places = dict(zip([*outputs, *watches], (d["index"] for d in interpreter.get_output_details()), strict=True))
    found: dict[str, list[np.ndarray]] = {name: [] for name in places}
    for done, image in enumerate(pixels):
        if progress is not None:
            progress(done, len(pixels))
        interpreter.set_tensor(fed["index"], np.ascontiguousarray(image[None].transpose(0, 2, 3, 1), np.float32))
        interpreter.invoke()
        for name, index in places.items():
            found[name].append(interpreter.get_tensor(index))
    peaks = {name: float(np.max(found[name])) for name in watches if not name.endswith(FLOOR)}
    floors = {name: float(np.min(found[name])) for name in watches if name.endswith(FLOOR)}
    borders = {INPUT_NAME: input_border(preprocess)}
    borders |= {name: best_border(np.concatenate(found[name])) for name in OUTPUT_NAMES}
    return Ranges(peaks, floors, borders), np.concatenate(found[OUTPUT_NAMES[0]])


def input_border(preprocess: Preprocess) -> Border:
    """The grid over all that pixels can be."""
    if preprocess.normalize == "graph":
        return Border(1.0, -128)
    pairs = list(zip(preprocess.mean, preprocess.std, strict=True))
    return Border.over(min(-mean / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs))


def best_border(x: np.ndarray) -> Border:
    """The grid over a share of the range of `x` with the least squared error."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 1e-6)
    grids = [Border.over(cut * low, cut * high) for cut in _CUTS]
    return min(grids, key=lambda grid: float(np.square(x - grid.rounded(x)).sum()))


def _extreme(sheet: FixedPoint, name: str, x: Value) -> Value:
    """() largest magnitude, or least value."""
    least = name.endswith(FLOOR)
    axes = sheet.graph.constant(f"{name}/axes", np.arange(len(x.shape), dtype=np.int32))
    whole = x if least else sheet.graph.add("ABS", f"{name}/magnitude", [x], x.shape)
    return sheet.graph.add(
        "REDUCE_MIN" if least else "REDUCE_MAX", f"{name}/extreme", [whole, axes], (), options=schema.ReducerOptionsT()
    )


def _opened(content: bytes) -> Interpreter:
    with without_greeting():
        interpreter = Interpreter(model_content=content, num_threads=cores())
        interpreter.allocate_tensors()
    return interpreter
