"""Observes the range of every tensor of an integer TFLite graph, by running it in float on calibration images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from typing_extensions import override

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES, Preprocess
from edgekit.backends.tflite.builder import FloatBuilder, Scale, Shape
from edgekit.backends.tflite.flatbuffer import Value
from edgekit.backends.tflite.int16.emitter import emit_contract
from edgekit.backends.tflite.int16.fixed_point import FixedPointBuilder, IoQuantParams, Ranges, channel_scale
from edgekit.backends.tflite.runner import cores, without_greeting

if TYPE_CHECKING:
    from edgekit.plan.quant import GemmPlan, QuantPlan

_CUTS = np.linspace(0.3, 1.0, 71)  # candidate ranges of an int8 output, as shares of the range observed


class RangeObserver(FloatBuilder, FixedPointBuilder):
    """The integer graph in float, with the tensors whose ranges decide its scales."""

    def __init__(self) -> None:
        super().__init__()
        self.activations: dict[str, Value] = {}  # abs-max wanted
        self.table_inputs: dict[str, Value] = {}  # minimum wanted, by the name of the table's output

    @override
    def emit(
        self, operator: str, inputs: Sequence[Value], outputs: Mapping[str, Shape], options: object | None, scale: Scale
    ) -> list[Value]:
        values = super().emit(operator, inputs, outputs, options, scale)
        if scale is None:
            self.activations |= dict(zip(outputs, values, strict=True))
        return values

    @override
    def input(self, name: str, shape: Shape) -> Value:
        self.inputs[name] = self.graph.input(name, shape)
        return self.inputs[name]

    @override
    def output(self, name: str, x: Value) -> Value:
        return x

    @override
    def clamp(self, name: str, x: Value, limit: float) -> Value:
        x = self.graph.add("MINIMUM", f"{name}.below", [x, self.scalar(f"{name}.max", limit)], x.shape)
        return self.graph.add("MAXIMUM", name, [x, self.scalar(f"{name}.min", -limit)], x.shape)

    @override
    def operands(self, gemm: GemmPlan, weight: np.ndarray, x: Value) -> list[Value]:
        real = weight * channel_scale(gemm).reshape(-1, *[1] * (weight.ndim - 1))
        return [x, self.number(f"{gemm.name}.weight", real), self.number(f"{gemm.name}.bias", gemm.bias_dynamic)]

    @override
    def inverse_root(self, name: str, x: Value, epsilon: float) -> Value:
        self.table_inputs[name] = x
        inputs, options = [x, self.scalar(f"{name}.eps", epsilon)], schema.AddOptionsT()
        shifted = self.graph.add("ADD", f"{name}.shifted", inputs, x.shape, options=options)
        return self.graph.add("RSQRT", name, [shifted], x.shape)

    def extremes(self) -> dict[str, Value]:
        """Abs-max () of each activation and minimum () of each table's input, by the name of the reduction."""
        found = {}
        for name, x in self.activations.items():
            magnitude = self.graph.add("ABS", f"{name}/magnitude", [x], x.shape)
            found[f"{name}/abs_max"] = self._reduced("REDUCE_MAX", f"{name}/abs_max", magnitude)
        for name, x in self.table_inputs.items():
            found[f"{name}/minimum"] = self._reduced("REDUCE_MIN", f"{name}/minimum", x)
        return found

    def _reduced(self, operator: str, name: str, x: Value) -> Value:
        """A reduction over all axes: ()."""
        axes = self.graph.constant(f"{name}/axes", np.arange(len(x.shape), dtype=np.int32))
        return self.graph.add(operator, name, [x, axes], (), options=schema.ReducerOptionsT())


def observe_ranges(plan: QuantPlan, pixels: np.ndarray, preprocess: Preprocess) -> tuple[Ranges, np.ndarray]:
    """Ranges over `pixels` (n, 3, H, W), and the float model's `last_hidden_state` (n, N, D) on the way.

    The int8 input holds every picture there is; the range of each int8 output is the one with the least squared error
    over all of `pixels`.
    """
    observer = RangeObserver()
    outputs = emit_contract(plan, observer)
    wanted = outputs | observer.extremes()
    interpreter = _opened(observer.graph.serialize(observer.inputs, wanted, "ranges", {}))
    (fed,) = interpreter.get_input_details()
    places = dict(zip(wanted, (detail["index"] for detail in interpreter.get_output_details()), strict=True))
    found: dict[str, list[np.ndarray]] = {name: [] for name in places}
    for image in pixels:
        interpreter.set_tensor(fed["index"], np.ascontiguousarray(image[None].transpose(0, 2, 3, 1), np.float32))
        interpreter.invoke()
        for name, index in places.items():
            found[name].append(interpreter.get_tensor(index))
    abs_max = {name: float(np.max(found[f"{name}/abs_max"])) for name in observer.activations}
    minima = {name: float(np.min(found[f"{name}/minimum"])) for name in observer.table_inputs}
    io = {INPUT_NAME: input_params(preprocess)}
    io |= {name: output_params(np.concatenate(found[name])) for name in OUTPUT_NAMES}
    return Ranges(abs_max, minima, io), np.concatenate(found[OUTPUT_NAMES[0]])


def input_params(preprocess: Preprocess) -> IoQuantParams:
    """Parameters of the input over all that pixels can be."""
    if preprocess.normalize == "graph":
        return IoQuantParams(1.0, -128)
    pairs = list(zip(preprocess.mean, preprocess.std, strict=True))
    low, high = min(-mean / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)
    return IoQuantParams.from_range(low, high)


def output_params(x: np.ndarray) -> IoQuantParams:
    """Parameters of an output: of shares of the range of `x`, the one with the least squared error."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 1e-6)
    candidates = [IoQuantParams.from_range(cut * low, cut * high) for cut in _CUTS]
    return min(candidates, key=lambda params: float(np.square(x - params.fake_quantize(x)).sum()))


def _opened(content: bytes) -> Interpreter:
    with without_greeting():
        interpreter = Interpreter(model_content=content, num_threads=cores())
        interpreter.allocate_tensors()
    return interpreter
