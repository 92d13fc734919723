"""Runs a saved Core ML program on any CPU, operation by operation in numpy: what macOS alone can do otherwise.

The program is read back from disk, so that graph, weights and quantizers are proven as they were written. Each result
is rounded to the type the program gives it; inside one operation arithmetic is float32. Nothing is proven about Apple's
kernels, whose float16 sums round differently, or about latency. An operation that is not known here is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends.coreml.interpreter.ops import OPERATIONS, Inputs
from edgekit.backends.coreml.package import read_function
from edgekit.errors import DataError, ExportError

CONSTANTS = "constexpr_"  # operations that the runtime evaluates once, when it loads the file
_DTYPES = {
    "fp16": np.float16,
    "fp32": np.float32,
    "int32": np.int32,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}

Watcher = Callable[[Any, Inputs, list[np.ndarray]], None]
"""Called with each operation, its inputs and its outputs."""


class MilProgram:
    """A program loaded from an .mlpackage."""

    def __init__(self, path: Path, function: str | None = None) -> None:
        """Read `path`; weights that stand as integers in the file are widened now.

        Args:
            path: of the package.
            function: of a package that has several; None for the one that Core ML runs unasked.

        Raises:
            DataError: missing, damaged, no ML program, or no such function.
            ExportError: it has an operation that the interpreter does not know.
        """
        self.path, self.function = path, read_function(path, function)
        self._constants: dict[str, np.ndarray] = {}
        for op in self.operations():
            if op.op_type.startswith(CONSTANTS):
                self._constants[op.outputs[0].name] = np.ascontiguousarray(op.materialized_val_inference())
            elif op.op_type not in OPERATIONS:
                raise ExportError(
                    f"{path.name} has the operation {op.op_type}",
                    why="unknown to the interpreter",
                    fix="run it on macOS",
                )

    def operations(self) -> Iterator[Any]:
        """All operations in order, constants left out."""
        return (op for op in self.function.operations if op.op_type != "const")

    def __call__(self, inputs: Mapping[str, np.ndarray], watch: Watcher | None = None) -> dict[str, np.ndarray]:
        """Outputs by name. Raises DataError when an input has another shape than the program's."""
        values: dict[str, np.ndarray] = dict(self._constants)
        for name, var in self.function.inputs.items():
            if not _fits(inputs[name].shape, _shape(var)):
                raise DataError(f"{name} has shape {inputs[name].shape}", why=f"{self.path.name} takes {_shape(var)}")
            values[name] = inputs[name].astype(_dtype(var))
        for op in self.operations():
            if op.op_type.startswith(CONSTANTS):
                continue
            arguments = {key: _value(values, var) for key, var in op.inputs.items()}
            results = [
                r.astype(_dtype(o), copy=False)
                for o, r in zip(op.outputs, OPERATIONS[op.op_type](arguments), strict=True)
            ]
            for output, result in zip(op.outputs, results, strict=True):
                if not _fits(result.shape, _shape(output)):
                    raise ExportError(
                        f"{op.op_type} {output.name} gives {tuple(result.shape)}",
                        why=f"the program says {_shape(output)}",
                    )
                values[output.name] = result
            if watch is not None:
                watch(op, arguments, results)
        return {var.name: values[var.name] for var in self.function.outputs}


def _value(values: Mapping[str, np.ndarray], var: Any) -> Any:
    """Value of an argument: a tensor computed before, a constant, or several of them."""
    if isinstance(var, (list, tuple)):
        return [_value(values, item) for item in var]
    if var is None:
        return None
    return values.get(var.name, var.val)


def _dtype(var: Any) -> type[np.generic]:
    from coremltools.converters.mil.mil import types

    return _DTYPES[types.builtin_to_string(var.dtype)]


def _shape(var: Any) -> tuple[int, ...]:
    """-1 where the program leaves a side open."""
    from coremltools.converters.mil.mil.types.symbolic import is_symbolic

    return tuple(-1 if is_symbolic(side) else int(side) for side in var.shape)


def _fits(actual: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(actual) == len(wanted) and all(side in (-1, found) for found, side in zip(actual, wanted, strict=True))
