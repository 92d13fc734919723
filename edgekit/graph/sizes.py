"""Positions of patches for images of any size, computed inside the graph: resized tables and rotary angles.

Bicubic resizing of a table (old rows, old columns, D) is linear and separable: it is A_h P A_w^T with matrices that the
sizes alone decide. They are written here in arithmetic that every runtime rounds alike, since resizing ops of the
runtimes differ in coefficient, border and antialias. Source of the weights: PyTorch's `upsample_bicubic2d`, and
`_upsample_bicubic2d_aa` for "antialias" (aten/src/ATen/native/UpSample.h, native/cpu/UpSampleKernel.cpp).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np

from edgekit.models.rope import periods_of

if TYPE_CHECKING:
    from edgekit.models.config import Interpolation, ViTConfig

V = TypeVar("V")

Elementwise = Literal["add", "subtract", "multiply", "divide", "minimum", "maximum"]
Function = Literal["cos", "sin"]

OFFSET = 0.1  # that the official code adds to the new size, see `ViTConfig.interpolation`
_CUBIC = {"offset": -0.75, "size": -0.75, "antialias": -0.5}  # the coefficient of the bicubic kernel
_REACH = 2  # of that kernel, in places on either side


@dataclass(frozen=True)
class Side:
    """Rows or columns of patches that are known at run time only, in whole-number arithmetic.

    It stands in the place of an int in the programs of heads, which multiply, add and divide; `steps` are what a graph
    has to do with the number of rows or columns.
    """

    axis: Literal["rows", "columns"]
    steps: tuple[tuple[Literal["add", "multiply", "divide"], int], ...] = ()

    def __mul__(self, factor: int) -> Side:
        return replace(self, steps=(*self.steps, ("multiply", factor)))

    __rmul__ = __mul__

    def __add__(self, term: int) -> Side:
        return replace(self, steps=(*self.steps, ("add", term)))

    def __floordiv__(self, divisor: int) -> Side:
        return replace(self, steps=(*self.steps, ("divide", divisor)))

    def __str__(self) -> str:
        """As the name of a dimension: "rows*4", "rows+1/2*32" from left to right."""
        signs = {"add": "+", "multiply": "*", "divide": "/"}
        return self.axis + "".join(f"{signs[step]}{number}" for step, number in self.steps)


FREE_GRID = Side("rows"), Side("columns")


def dimension(side: int) -> int | str:
    """A side of a shape as descriptions have it: a number, or the name of one that is free."""
    return str(side) if isinstance(side, Side) else side


class Arithmetic(ABC, Generic[V]):
    """Float32 operations inside a graph, on arrays whose shape may be known at run time only."""

    @abstractmethod
    def number(self, value: np.ndarray | float) -> V:
        """A constant of float32, a number or an array."""

    @abstractmethod
    def span(self, side: V) -> V:
        """0, 1, ..., `side` - 1 as a column (side, 1); `side` is (1,)."""

    @abstractmethod
    def pair(self, kind: Elementwise, a: V, b: V) -> V:
        """An operation on every pair of numbers of `a` and `b`, which broadcast."""

    @abstractmethod
    def each(self, function: Function, x: V) -> V:
        """A function of every number."""

    @abstractmethod
    def matmul(self, a: V, b: V) -> V:
        """Matrix product; a matrix broadcasts over the first axis of a stack of them."""

    @abstractmethod
    def row_sum(self, x: V) -> V:
        """Sums (rows, 1) of a matrix."""

    @abstractmethod
    def reshape(self, x: V, *shape: int) -> V:
        """The same numbers in another shape, of which one side may be -1."""

    @abstractmethod
    def concat(self, values: Sequence[V], axis: int) -> V:
        """Arrays one after the other along an axis."""

    # What is made of these

    def plus(self, x: V, value: float) -> V:
        """x + a number."""
        return self.pair("add", x, self.number(value))

    def times(self, x: V, value: float) -> V:
        """x * a number."""
        return self.pair("multiply", x, self.number(value))

    def magnitude(self, x: V) -> V:
        """|x|, without an Abs: OpenVINO 2026.4 drops that of what comes from a shape, negative numbers or not."""
        return self.pair("maximum", x, self.times(x, -1.0))


@dataclass
class Places(Generic[V]):
    """The places of the patches of images whose `rows` and `columns`, (1,) each, are values of the graph."""

    m: Arithmetic[V]
    config: ViTConfig  # its `grid` is that of the stored table
    rows: V
    columns: V

    def positions(self, table: np.ndarray) -> V:
        """A table of positions (1, P, D), resized to the patches at hand: (1, rows * columns, D)."""
        (rows, columns), width, m = self.config.grid, table.shape[-1], self.m
        x = m.number(table.reshape(rows, columns * width))
        x = m.reshape(m.matmul(self._resizing(self.rows, rows), x), -1, columns, width)
        return m.reshape(m.matmul(self._resizing(self.columns, columns), x), 1, -1, width)

    @cached_property
    def rotation(self) -> tuple[V, V]:
        """Cosine and sine (P, d / 2) of the angles by which rotary positions turn, see `edgekit.models.rope`."""
        config, m = self.config, self.m
        speeds = 2 * np.pi / periods_of(config.rope_base, config.head_dim, config.rope_periods)  # (d / 4,)
        down = m.reshape(self._turns(self.rows, speeds), -1, 1, len(speeds))
        across = m.reshape(self._turns(self.columns, speeds), 1, -1, len(speeds))
        everywhere = m.pair("add", m.times(down, 0.0), across), m.pair("add", down, m.times(across, 0.0))
        angles = m.reshape(m.concat(everywhere[::-1], 2), -1, 2 * len(speeds))
        return m.each("cos", angles), m.each("sin", angles)

    @cached_property
    def tables(self) -> tuple[V, V]:
        """The same for all tokens and channels, as `edgekit.models.rope.rotation_of` has them: (N, d) each."""
        m, (cos, sin) = self.m, self.rotation
        still = np.ones((self.config.prefix, self.config.head_dim), np.float32)
        cos, sin = m.concat([cos, cos], 1), m.concat([m.times(sin, -1.0), sin], 1)
        return m.concat([m.number(still), cos], 0), m.concat([m.number(0 * still), sin], 0)

    def _turns(self, side: V, speeds: np.ndarray) -> V:
        """Angles (side, d / 4) of the patches' centres, which lie from -1 to 1."""
        m = self.m
        centres = m.pair("divide", m.times(m.plus(m.span(side), 0.5), 2.0), side)
        return m.pair("multiply", m.plus(centres, -1.0), m.number(speeds[None]))

    @cached_property
    def _unchanged(self) -> V:
        """1 where the table is taken as it is, else 0: (1,)."""
        m, (rows, columns) = self.m, self.config.grid
        apart = (m.magnitude(m.plus(side, -old)) for side, old in ((self.rows, rows), (self.columns, columns)))
        both = m.pair("minimum", m.pair("add", *apart), m.number(1.0))  # 0 or 1, since sides are whole numbers
        return m.pair("subtract", m.number(1.0), both)

    def _resizing(self, side: V, old: int) -> V:
        """The matrix (side, old) that resizes one axis of a table."""
        interpolation: Interpolation = self.config.interpolation
        m, coefficient = self.m, _CUBIC[interpolation]
        divisor = side
        if interpolation == "offset":
            offset = m.plus(m.times(self._unchanged, -OFFSET), OFFSET)
            divisor = m.pair("add", side, offset)
        step = m.pair("divide", m.number(float(old)), divisor)  # in places of the table
        centres = m.plus(m.pair("multiply", m.plus(m.span(side), 0.5), step), -0.5)  # (side, 1)
        if interpolation == "antialias":
            distances = m.pair("subtract", m.number(np.arange(old)[None]), centres)
            narrowing = m.pair("minimum", m.times(side, 1 / old), m.number(1.0))  # of the kernel, where sizes shrink
            weights = cubic(m, m.pair("multiply", distances, narrowing), coefficient)
            return m.pair("divide", weights, m.row_sum(weights))
        beyond = np.arange(-_REACH, old + _REACH)  # places outside the table count as its border
        weights = cubic(m, m.pair("subtract", m.number(beyond[None]), centres), coefficient)
        border = np.eye(old)[beyond.clip(0, old - 1)]
        return m.matmul(weights, m.number(border))


def cubic(m: Arithmetic[V], distances: V, a: float) -> V:
    """The bicubic kernel of every distance (Keys 1981, eq. 4 with coefficient `a`).

    Its two pieces are 0 where they meet and at distance 2, so that clamped distances make the cases of one sum.
    """
    far = m.magnitude(distances)
    near = m.pair("minimum", far, m.number(1.0))
    far = m.pair("minimum", m.pair("maximum", far, m.number(1.0)), m.number(float(_REACH)))
    inner = m.plus(m.pair("multiply", m.pair("multiply", m.plus(m.times(near, a + 2), -a - 3), near), near), 1.0)
    outer = m.plus(m.pair("multiply", m.plus(far, -5.0), far), 8.0)
    outer = m.plus(m.times(m.pair("multiply", outer, far), a), -4 * a)
    return m.pair("add", inner, outer)
