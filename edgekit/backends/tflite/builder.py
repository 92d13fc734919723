"""TFLite operators with their options, written once for all number types: float32, or int16 with a scale per tensor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from typing_extensions import override

from edgekit.backends.tflite.flatbuffer import Graph, Value

Shape = tuple[int, ...]  # -1 is the batch
Scale = float | Value | None  # of an integer output: given, that of another tensor, or (None) from calibration
UNIT_SCALE = 1 / 32768  # the scale that int16 kernels demand of SOFTMAX's and LOGISTIC's output, which is below 1


class OperatorBuilder(ABC):
    """Appends operators to a graph; a subclass decides the number type."""

    def __init__(self, graph: Graph | None = None) -> None:
        """For `graph`, or for a new one."""
        self.graph = graph or Graph()

    @abstractmethod
    def emit(
        self, operator: str, inputs: Sequence[Value], outputs: Mapping[str, Shape], options: object | None, scale: Scale
    ) -> list[Value]:
        """Appends an operator and returns its outputs.

        Args:
            operator: its name in the schema, e.g. "BATCH_MATMUL".
            inputs: in the operator's order.
            outputs: name and shape of each.
            options: the schema's option object, e.g. `SoftmaxOptionsT`.
            scale: of integer outputs; a tensor where the operator only moves its numbers.
        """

    def op(
        self,
        operator: str,
        name: str,
        inputs: Sequence[Value],
        shape: Shape,
        *,
        options: object | None = None,
        scale: Scale = None,
    ) -> Value:
        """An operator with one output of that name; see `emit`."""
        return self.emit(operator, inputs, {name: shape}, options, scale)[0]

    @abstractmethod
    def number(self, name: str, value: np.ndarray) -> Value:
        """A constant of real numbers."""

    def scalar(self, name: str, value: float) -> Value:
        """A real constant of one element: (1,)."""
        return self.number(name, np.array([value]))

    def reshape(self, name: str, x: Value, shape: Shape) -> Value:
        """RESHAPE; -1 in the shape is the batch."""
        options = schema.ReshapeOptionsT()
        options.newShape = np.array(shape, np.int32)
        target = self.graph.constant(f"{name}.shape", np.array(shape, np.int32))
        return self.op("RESHAPE", name, [x, target], shape, options=options, scale=x)

    def flatten(self, name: str, x: Value) -> Value:
        """A map as tokens: (B, rows, columns, C) -> (B, rows * columns, C)."""
        return self.reshape(name, x, (-1, x.shape[1] * x.shape[2], x.shape[3]))

    def transpose(self, name: str, x: Value, order: tuple[int, ...]) -> Value:
        """TRANSPOSE; axis i of the output is axis `order[i]` of x."""
        permutation = self.graph.constant(f"{name}.order", np.array(order, np.int32))
        shape, options = tuple(x.shape[axis] for axis in order), schema.TransposeOptionsT()
        return self.op("TRANSPOSE", name, [x, permutation], shape, options=options, scale=x)

    def split(self, name: str, x: Value, parts: int) -> list[Value]:
        """SPLIT of (..., C) into equal parts along the channels: (..., C / parts) each."""
        options = schema.SplitOptionsT()
        options.numSplits = parts
        axis = self.graph.constant(f"{name}.split_axis", np.array(len(x.shape) - 1, np.int32))
        shape = (*x.shape[:-1], x.shape[-1] // parts)
        return self.emit("SPLIT", [axis, x], {f"{name}.part{i}": shape for i in range(parts)}, options, x)

    def join(self, name: str, parts: Sequence[Value]) -> Value:
        """CONCATENATION along the channels of parts with one shape and, where they are integers, one scale."""
        options = schema.ConcatenationOptionsT()
        options.axis = len(parts[0].shape) - 1
        shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
        return self.op("CONCATENATION", name, parts, shape, options=options, scale=parts[0])

    def tokens(self, name: str, x: Value, first: int, end: int) -> Value:
        """Tokens [first, end) of (B, N, C), by STRIDED_SLICE: XNNPACK takes neither SLICE nor SPLIT_V here."""
        bounds = (("begin", [0, first, 0]), ("end", [0, end, 0]), ("strides", [1, 1, 1]))
        constants = [self.graph.constant(f"{name}.{bound}", np.array(value, np.int32)) for bound, value in bounds]
        options = schema.StridedSliceOptionsT()
        options.beginMask = options.endMask = 0b101  # the whole of batch and channels
        shape = (x.shape[0], end - first, x.shape[2])
        return self.op("STRIDED_SLICE", name, [x, *constants], shape, options=options, scale=x)

    def mean(self, name: str, x: Value, axis: Value) -> Value:
        """MEAN over the channels: (..., C) -> (..., 1); `axis` is the constant -1."""
        options = schema.ReducerOptionsT()
        options.keepDims = True
        return self.op("MEAN", name, [x, axis], (*x.shape[:-1], 1), options=options)

    def add(self, name: str, a: Value, b: Value) -> Value:
        """a + b, b broadcast to the shape of a."""
        return self.op("ADD", name, [a, b], a.shape, options=schema.AddOptionsT())

    def mul(self, name: str, a: Value, b: Value) -> Value:
        """a * b, b broadcast to the shape of a."""
        return self.op("MUL", name, [a, b], a.shape, options=schema.MulOptionsT())

    def sigmoid(self, name: str, x: Value) -> Value:
        """LOGISTIC: 1 / (1 + exp(-x))."""
        return self.op("LOGISTIC", name, [x], x.shape, scale=UNIT_SCALE)

    def softmax(self, name: str, x: Value) -> Value:
        """SOFTMAX over the last axis."""
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self.op("SOFTMAX", name, [x], x.shape, options=options, scale=UNIT_SCALE)

    def matmul(self, name: str, a: Value, b: Value, shape: Shape, *, transpose: bool) -> Value:
        """BATCH_MATMUL of a with b, or with b transposed."""
        options = schema.BatchMatMulOptionsT()
        options.adjY = transpose
        return self.op("BATCH_MATMUL", name, [a, b], shape, options=options)

    def fully_connected(self, name: str, inputs: Sequence[Value]) -> Value:
        """FULLY_CONNECTED of x (..., in), a weight (out, in) and maybe a bias (out,): (..., out)."""
        x, weight = inputs[:2]
        options = schema.FullyConnectedOptionsT()
        options.keepNumDims = True
        return self.op("FULLY_CONNECTED", name, inputs, (*x.shape[:-1], weight.shape[0]), options=options)

    def patch_conv(self, name: str, inputs: Sequence[Value]) -> Value:
        """CONV_2D of pixels (B, H, W, 3), a kernel (D, patch, patch, 3) whose stride is a patch, and a bias (D,)."""
        pixels, (out, patch, *_) = inputs[0], inputs[1].shape
        shape = (-1, pixels.shape[1] // patch, pixels.shape[2] // patch, out)
        return self.op("CONV_2D", name, inputs, shape, options=conv_options(patch))

    def attention(self, name: str, q: Value, k: Value, v: Value, scale: float) -> Value:
        """softmax(q k^T * scale) v for q, k, v of (B, H, N, d); a scale of 1 costs no operator."""
        if scale != 1:
            q = self.mul(f"{name}.q_scaled", q, self.scalar(f"{name}.scale", scale))
        _, heads, tokens, _ = q.shape
        logits = self.matmul(f"{name}.logits", q, k, (-1, heads, tokens, tokens), transpose=True)
        probabilities = self.softmax(f"{name}.probabilities", logits)  # (B, H, N, N)
        return self.matmul(f"{name}.weighted", probabilities, v, q.shape, transpose=False)


class FloatBuilder(OperatorBuilder):
    """Operators on float32."""

    @override
    def emit(
        self, operator: str, inputs: Sequence[Value], outputs: Mapping[str, Shape], options: object | None, scale: Scale
    ) -> list[Value]:
        version = 5 if operator == "FULLY_CONNECTED" else 1  # the first that keeps the axes in front of the channels
        return self.graph.add_several(operator, [*outputs], inputs, [*outputs.values()], options, version)

    @override
    def number(self, name: str, value: np.ndarray) -> Value:
        return self.graph.constant(name, np.asarray(value, np.float32))


def conv_options(stride: int) -> schema.Conv2DOptionsT:
    """Options of a CONV_2D without padding."""
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.VALID, stride, stride
    options.dilationHFactor = options.dilationWFactor = 1
    return options


def channels_last(weight: np.ndarray) -> np.ndarray:
    """Kernel in TFLite's layout: (out, in, k, k) -> (out, k, k, in); (out, in) stays."""
    return weight if weight.ndim == 2 else np.ascontiguousarray(weight.transpose(0, 2, 3, 1))


def dequantized(graph: Graph, name: str, stored: Value, *, version: int) -> Value:
    """float32 of a float16 or int8 constant: DEQUANTIZE, which runtimes compute once when they load the file."""
    return graph.add("DEQUANTIZE", name, [stored], stored.shape, options=schema.DequantizeOptionsT(), version=version)
