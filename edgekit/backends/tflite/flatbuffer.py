"""Writes a TFLite flatbuffer tensor by tensor and operator by operator, with the same bytes for the same calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from edgekit.errors import ExportError

FILE_IDENTIFIER = b"TFL3"
LARGEST = 2**31 - 1  # bytes a flatbuffer can address
SIGNATURE = "serving_default"
_TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int64): schema.TensorType.INT64,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int16): schema.TensorType.INT16,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
}


@dataclass(frozen=True)
class Quantization:
    """real = (q - zero_point) * scale; one scale per tensor, or one per slice along `axis`."""

    scale: np.ndarray  # float32 (1,) or (channels,)
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True)
class Value:
    """A tensor of the graph; in its shape, -1 is the batch."""

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype


class Graph:
    """One subgraph under construction. Names follow the module paths, so that a reader of the file finds them."""

    def __init__(self) -> None:
        self._buffers = [schema.BufferT()]  # the first is empty by convention: tensors without data point to it
        self._tensors: list[schema.TensorT] = []
        self._operators: list[schema.OperatorT] = []
        self._codes: dict[tuple[int, int], int] = {}  # (builtin operator, version) -> index
        self._subgraphs: dict[str, schema.SubGraphT] = {}  # further ones of the file, by name

    def subgraph(self) -> Graph:
        """An empty subgraph of the same file, for `add_subgraph`."""
        graph = Graph()
        graph._buffers, graph._codes = self._buffers, self._codes
        return graph

    def add_subgraph(self, name: str, graph: Graph, inputs: Sequence[Value], outputs: Sequence[Value]) -> int:
        """Put a finished subgraph into the file; returns its index."""
        self._subgraphs[name] = graph._finished(name, inputs, outputs)
        return len(self._subgraphs)  # the graph itself is the first

    def subgraph_index(self, name: str) -> int | None:
        """Index of the subgraph of that name, if there is one."""
        return next((index for index, known in enumerate(self._subgraphs, 1) if known == name), None)

    def composite(
        self,
        kind: str,
        name: str,
        inputs: Sequence[Value],
        shape: tuple[int, ...],
        attributes: Mapping[str, float],
        decomposition: int,
    ) -> Value:
        """A StableHLO composite: delegates that do not know `kind` run the subgraph of index `decomposition`."""
        builder = flexbuffers.Builder()
        with builder.Map():
            for key, value in attributes.items():
                builder.Float(key, value)
        options = schema.StableHLOCompositeOptionsT()
        options.name, options.decompositionSubgraphIndex, options.version = kind, decomposition, 1
        options.compositeAttributes = np.frombuffer(bytes(builder.Finish()), np.uint8)
        output = self.add("STABLEHLO_COMPOSITE", name, inputs, shape)
        node = self._operators[-1]
        node.builtinOptions2, node.builtinOptions2Type = options, schema.BuiltinOptions2.StableHLOCompositeOptions
        return output

    def input(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: type[np.generic] = np.float32,
        quantization: Quantization | None = None,
    ) -> Value:
        """A tensor that the caller fills."""
        return self._tensor(name, shape, np.dtype(dtype), 0, quantization)

    def constant(self, name: str, value: np.ndarray, quantization: Quantization | None = None) -> Value:
        """A tensor whose data is stored in the file."""
        value = np.array(value, order="C", ndmin=1) if value.ndim else np.array(value)
        buffer = _Data()
        buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        self._buffers.append(buffer)
        return self._tensor(name, value.shape, value.dtype, len(self._buffers) - 1, quantization)

    def constant_int4(self, name: str, value: np.ndarray, scale: np.ndarray) -> Value:
        """INT4 constant (out, in), block-quantized: float16 scales (out, blocks) for the blocks of a row."""
        nibbles = (value.astype(np.int16) & 0xF).astype(np.uint8).ravel()
        stored = self.constant(name, nibbles[0::2] | nibbles[1::2] << 4)  # two to a byte, the first in the low half
        tensor = self._tensors[stored.index]
        tensor.type, tensor.shape = schema.TensorType.INT4, np.array(value.shape, np.int32)
        blocks = schema.BlockwiseQuantizationT()
        blocks.scales = self.constant(f"{name}_scale", scale.astype(np.float16)).index
        blocks.zeroPoints, blocks.blockSize = -1, value.shape[1] // scale.shape[1]
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.details = blocks
        tensor.quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
        return Value(stored.index, value.shape, np.dtype(np.int8))

    def add(
        self,
        operator: str,
        name: str,
        inputs: Sequence[Value],
        shape: tuple[int, ...],
        *,
        options: object | None = None,
        version: int = 1,
        dtype: type[np.generic] = np.float32,
        quantization: Quantization | None = None,
    ) -> Value:
        """An operator with one output.

        Args:
            operator: its name in the schema, e.g. "FULLY_CONNECTED".
            name: of the output tensor.
            inputs: in the operator's order.
            shape: of the output.
            options: the schema's option object, e.g. `SoftmaxOptionsT`.
            version: of the operator: the lowest that knows the types used, so that old runtimes accept it.
            dtype: of the output.
            quantization: of the output, when it holds integers.
        """
        return self.add_several(operator, [name], inputs, [shape], options, version, np.dtype(dtype), quantization)[0]

    def add_several(
        self,
        operator: str,
        names: Sequence[str],
        inputs: Sequence[Value],
        shapes: Sequence[tuple[int, ...]],
        options: object | None,
        version: int = 1,
        dtype: np.dtype = np.dtype(np.float32),  # noqa: B008 - immutable
        quantization: Quantization | None = None,
    ) -> list[Value]:
        """An operator with several outputs, all of one type."""
        outputs = [self._tensor(n, s, dtype, 0, quantization) for n, s in zip(names, shapes, strict=True)]
        node = schema.OperatorT()
        node.opcodeIndex = self._codes.setdefault(
            (getattr(schema.BuiltinOperator, operator), version), len(self._codes)
        )
        node.inputs = np.array([value.index for value in inputs], np.int32)
        node.outputs = np.array([value.index for value in outputs], np.int32)
        if options is not None:
            node.builtinOptions = options
            node.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._operators.append(node)
        return outputs

    def rename(self, value: Value, name: str) -> None:
        """Give a tensor another name, e.g. that of the output which it is."""
        self._tensors[value.index].name = name

    def serialize(
        self, inputs: dict[str, Value], outputs: dict[str, Value], description: str, metadata: Mapping[str, str]
    ) -> bytes:
        """The file: the graph, one signature with those names, and metadata buffers of UTF-8 text.

        Raises:
            ExportError: it would be larger than the format allows.
        """
        subgraph = self._finished("main", [*inputs.values()], [*outputs.values()])
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs, signature.outputs = _named(inputs), _named(outputs)
        model = schema.ModelT()
        model.version, model.description = 3, description
        model.subgraphs, model.signatureDefs = [subgraph, *self._subgraphs.values()], [signature]
        model.operatorCodes = [_code(operator, version) for operator, version in self._codes]
        model.metadata = [self._metadata(name, text) for name, text in metadata.items()]
        model.buffers = self._buffers
        size = sum(len(buffer.data) for buffer in self._buffers if buffer.data is not None)
        if size > LARGEST - 2**20:
            raise ExportError(
                f"the file would hold {size / 1e9:.1f} GB", why="a .tflite file ends at 2 GiB", fix="--precision w8a8"
            )
        builder = flatbuffers.Builder(size + 2**20)
        builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _finished(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> schema.SubGraphT:
        subgraph = schema.SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = name, self._tensors, self._operators
        subgraph.inputs = np.array([value.index for value in inputs], np.int32)
        subgraph.outputs = np.array([value.index for value in outputs], np.int32)
        return subgraph

    def _tensor(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype, buffer: int, quantization: Quantization | None
    ) -> Value:
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer = name, _TYPES[dtype], buffer
        tensor.shape = np.array([1 if side == -1 else side for side in shape], np.int32)
        if -1 in shape:
            tensor.shapeSignature = np.array(shape, np.int32)
        tensor.hasRank = True
        if quantization is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = quantization.scale.astype(np.float32).ravel()
            tensor.quantization.zeroPoint = np.full(quantization.scale.size, quantization.zero_point, np.int64)
            tensor.quantization.quantizedDimension = quantization.axis
        self._tensors.append(tensor)
        return Value(len(self._tensors) - 1, shape, dtype)

    def _metadata(self, name: str, text: str) -> schema.MetadataT:
        buffer, entry = _Data(), schema.MetadataT()
        buffer.data = np.frombuffer(text.encode(), np.uint8)
        self._buffers.append(buffer)
        entry.name, entry.buffer = name, len(self._buffers) - 1
        return entry


class _Data(schema.BufferT):  # type: ignore[misc]
    """A buffer whose bytes start at a multiple of 16, as the schema demands and the generated packer forgets."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        builder.StartVector(1, len(self.data), 16)
        builder.head -= len(self.data)
        builder.Bytes[builder.head : builder.head + len(self.data)] = self.data.tobytes()
        builder.vectorNumElems = len(self.data)
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))


def _named(values: dict[str, Value]) -> list[schema.TensorMapT]:
    entries = []
    for name, value in values.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, value.index
        entries.append(entry)
    return entries


def _code(operator: int, version: int) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = operator, version
    code.deprecatedBuiltinCode = min(operator, 127)  # where readers before schema v3a look
    return code
