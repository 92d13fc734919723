"""The arithmetic of `edgekit.graph.sizes` computed at once by numpy: the proof of what it is used for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.graph.sizes import Arithmetic, Elementwise, Function


class NumpyArithmetic(Arithmetic[np.ndarray]):
    """Every operation in float32."""

    def number(self, value: np.ndarray | float) -> np.ndarray:
        return np.asarray(value, np.float32)

    def span(self, side: np.ndarray) -> np.ndarray:
        return np.arange(int(side.item()), dtype=np.float32)[:, None]

    def pair(self, kind: Elementwise, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        result: np.ndarray = getattr(np, kind)(a, b)
        return result

    def each(self, function: Function, x: np.ndarray) -> np.ndarray:
        result: np.ndarray = getattr(np, function)(x)
        return result

    def matmul(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.matmul(a, b)

    def row_sum(self, x: np.ndarray) -> np.ndarray:
        return x.sum(1, keepdims=True)

    def reshape(self, x: np.ndarray, *shape: int) -> np.ndarray:
        return x.reshape(shape)

    def concat(self, values: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(values, axis)
