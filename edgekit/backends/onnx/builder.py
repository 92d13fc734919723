"""A small builder of ONNX graphs: each output is named as its node, each constant is stored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

Attributes = Mapping[str, int | float | str | Sequence[int]]


class GraphBuilder:
    """Nodes and initializers of a graph in the making; float constants are stored in `float_type`."""

    def __init__(self, float_type: ir.DataType = ir.DataType.FLOAT) -> None:
        self.float_type = float_type
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.custom_domains: dict[str, int] = {}  # domain -> version, of ops that are not ONNX's own

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: Attributes | None = None,
        *,
        domain: str = "",
    ) -> ir.Value:
        """Append a node with one output; node and output are both called `name`."""
        output = ir.Value(name=name)
        self.nodes.append(ir.node(op_type, inputs, attributes or {}, domain=domain, outputs=[output], name=name))
        return output

    def split(self, x: ir.Value, sizes: Sequence[int], axis: int, name: str, outputs: Sequence[str]) -> list[ir.Value]:
        """Append a Split of `x` into parts of the given sizes, each output named on its own."""
        return self.multiple("Split", [x, self.ints(*sizes)], name, outputs, {"axis": axis})

    def multiple(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        outputs: Sequence[str],
        attributes: Attributes | None = None,
    ) -> list[ir.Value]:
        """Append a node with several outputs, each named on its own."""
        values = [ir.Value(name=output) for output in outputs]
        self.nodes.append(ir.node(op_type, inputs, attributes or {}, outputs=values, name=name))
        return values

    def constant(self, name: str, array: np.ndarray, *, dtype: ir.DataType | None = None) -> ir.Value:
        """The initializer of that name. Floats are stored in the graph's float type, integers as they are."""
        if name not in self.initializers:
            if dtype is None:
                floating = np.issubdtype(array.dtype, np.floating)
                dtype = self.float_type if floating else ir.DataType(ir.DataType.from_numpy(array.dtype))
            stored = np.array(array, dtype=dtype.numpy(), order="C")  # a copy: later changes of the model stay out
            tensor = ir.tensor(stored, dtype=dtype, name=name)
            self.initializers[name] = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype), const_value=tensor
            )
        return self.initializers[name]

    def ints(self, *values: int) -> ir.Value:
        """A 1-D int64 constant named by its content."""
        return self.constant(f"int64[{','.join(map(str, values))}]", np.array(values, np.int64))

    def index(self, value: int) -> ir.Value:
        """A scalar int64 constant named by its content, for Gather."""
        return self.constant(f"int64({value})", np.array(value, np.int64))


def contract_value(value: ir.Value, name: str, shape: Sequence[int | str]) -> ir.Value:
    """`value` under its contract name, shape and float32 type."""
    value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    return value
