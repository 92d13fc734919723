"""Heads as TFLite operators, in float32; maps are (B, rows, columns, C) here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.backends.tflite_flatbuffer import Value
from edgekit.heads.program import Grid, Head, emit_heads

if TYPE_CHECKING:
    from edgekit.backends.tflite_graph import Writer

_VALID = schema.Padding.VALID
_FUNCTIONS = {"relu": ("RELU", None), "gelu": ("GELU", schema.GeluOptionsT), "sigmoid": ("LOGISTIC", None)}


def head_outputs(writer: Writer, heads: Mapping[str, Head], blocks: Sequence[Value], hidden: Value) -> dict[str, Value]:
    """Write the heads behind a backbone (see `emit_heads`): the output of each, by name."""
    grid = writer.config.grid
    ops = TfliteOps(writer)
    found = emit_heads(ops, heads, blocks, hidden, writer.tensors, grid)
    return {name: ops.shaped(name, x, heads[name].shape(grid)) for name, x in found.items()}


class TfliteOps:
    """`edgekit.heads.program.HeadOps` on values of a graph in the making."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.graph = writer, writer.graph
        self.rows, self.columns = writer.config.grid
        self._head, self._count = "", 0

    def begin(self, name: str) -> None:
        """Names start with the head's."""
        self._head, self._count = f"heads.{name}", 0

    def norm(self, tokens: Value, weight: np.ndarray, bias: np.ndarray) -> Value:
        """LayerNorm, of the operators that the backbone's are made of."""
        return self.writer.layer_norm(self._name("norm"), tokens, weight, bias)

    def turn(self, tokens: Value, matrix: np.ndarray) -> Value:
        """FULLY_CONNECTED."""
        return self.writer.product(self._name("turn"), tokens, self._number(matrix.T))

    def cls(self, tokens: Value) -> Value:
        """(B, D)."""
        x = self.graph.tokens(self._name("cls"), tokens, 0, 1)
        return self.writer.reshape(self._name("reshape"), x, (-1, tokens.shape[2]))

    def mean(self, tokens: Value) -> Value:
        """(B, D)."""
        axis = self.graph.constant(self._name("axis"), np.array([1], np.int32))
        shape = (-1, tokens.shape[2])
        options = schema.ReducerOptionsT()
        return self.graph.add("MEAN", self._name("mean"), [self._patches(tokens), axis], shape, options=options)

    def grid(self, tokens: Value) -> Value:
        """(B, rows, columns, D)."""
        shape = (-1, self.rows, self.columns, tokens.shape[2])
        return self.writer.reshape(self._name("grid"), self._patches(tokens), shape)

    def join(self, values: Sequence[Value]) -> Value:
        """CONCATENATION."""
        if len(values) == 1:
            return values[0]
        options = schema.ConcatenationOptionsT()
        options.axis = len(values[0].shape) - 1
        shape = (*values[0].shape[:-1], sum(value.shape[-1] for value in values))
        return self.graph.add("CONCATENATION", self._name("join"), values, shape, options=options)

    def linear(self, vector: Value, weight: np.ndarray, bias: np.ndarray) -> Value:
        """FULLY_CONNECTED."""
        inputs = [vector, self._number(weight), self._number(bias)]
        options = schema.FullyConnectedOptionsT()
        return self.graph.add("FULLY_CONNECTED", self._name("linear"), inputs, (-1, len(weight)), options=options)

    def conv(
        self, image: Value, weight: np.ndarray, bias: np.ndarray, *, stride: int = 1, padding: int = 0,
        shuffle: int = 1,
    ) -> Value:  # fmt: skip
        """CONV_2D, its channels in DEPTH_TO_SPACE's order, which is the reverse of torch's."""
        outputs, size = len(weight) // shuffle**2, weight.shape[2]
        order = np.arange(len(weight)).reshape(outputs, -1).T.ravel()
        x = self._padded(image, padding) if padding else image
        rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = _VALID, stride, stride
        options.dilationHFactor = options.dilationWFactor = 1
        inputs = [x, self._number(weight[order].transpose(0, 2, 3, 1)), self._number(bias[order])]
        x = self.graph.add("CONV_2D", self._name("conv"), inputs, (-1, rows, columns, len(weight)), options=options)
        if shuffle == 1:
            return x
        shape = (-1, shuffle * rows, shuffle * columns, outputs)
        block = schema.DepthToSpaceOptionsT()
        block.blockSize = shuffle
        return self.graph.add("DEPTH_TO_SPACE", self._name("shuffle"), [x], shape, options=block)

    def resize(self, image: Value, size: Grid, corners: Literal["aligned", "free"]) -> Value:
        """RESIZE_BILINEAR."""
        options = schema.ResizeBilinearOptionsT()
        options.alignCorners, options.halfPixelCenters = corners == "aligned", corners == "free"
        inputs = [image, self.graph.constant(self._name("size"), np.array(size, np.int32))]
        shape = (-1, *size, image.shape[3])
        return self.graph.add("RESIZE_BILINEAR", self._name("resize"), inputs, shape, options=options, version=3)

    def plus(self, a: Value, b: Value) -> Value:
        """ADD."""
        return self.writer.plus(self._name("plus"), a, b)

    def spread(self, image: Value, vector: Value) -> Value:
        """ADD of a map of one place."""
        return self.plus(image, self.writer.reshape(self._name("place"), vector, (-1, 1, 1, vector.shape[1])))

    def offset(self, x: Value, value: float) -> Value:
        """ADD of a constant."""
        return self.plus(x, self.writer.scalar(self._name("offset"), value))

    def divide(self, a: Value, b: Value) -> Value:
        """DIV."""
        return self.graph.add("DIV", self._name("divide"), [a, b], a.shape, options=schema.DivOptionsT())

    def apply(self, x: Value, function: Literal["relu", "gelu", "sigmoid"]) -> Value:
        """RELU, GELU or LOGISTIC."""
        operator, options = _FUNCTIONS[function]
        return self.graph.add(operator, self._name(function), [x], x.shape, options=options() if options else None)

    def softmax(self, vector: Value) -> Value:
        """SOFTMAX."""
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self.graph.add("SOFTMAX", self._name("softmax"), [vector], vector.shape, options=options)

    def unit(self, vector: Value) -> Value:
        """L2_NORMALIZATION."""
        options = schema.L2NormOptionsT()
        return self.graph.add("L2_NORMALIZATION", self._name("unit"), [vector], vector.shape, options=options)

    def shaped(self, name: str, x: Value, shape: tuple[int, ...]) -> Value:
        """The head's output as (B, *shape), called `name`; maps of several channels with the channels first."""
        self.begin(name)
        if len(shape) == 3:
            x = self.writer.transpose(f"{self._head}/channels_first", x, (0, 3, 1, 2))
        return self.writer.reshape(name, x, (-1, *shape))

    def _padded(self, image: Value, padding: int) -> Value:
        """Zeros around a map."""
        around = np.array([[0, 0], [padding, padding], [padding, padding], [0, 0]], np.int32)
        rows, columns = (side + 2 * padding for side in image.shape[1:3])
        inputs = [image, self.graph.constant(self._name("paddings"), around)]
        return self.graph.add("PAD", self._name("padded"), inputs, (-1, rows, columns, image.shape[3]))

    def _patches(self, tokens: Value) -> Value:
        count = self.writer.tokens
        return self.graph.tokens(self._name("patches"), tokens, count - self.rows * self.columns, count)

    def _number(self, value: np.ndarray) -> Value:
        return self.graph.constant(self._name("number"), np.asarray(value, np.float32, order="C"))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self._head}/{self._count}.{kind}"
