"""The strategy that decides how each matrix product is written: in float, in integers, or with integer weights only."""

from __future__ import annotations

from typing import Protocol, TypeVar

V = TypeVar("V")  # a value of some format


class GemmStrategy(Protocol[V]):
    """Writes the products of the network; one graph serves all precisions.

    A format implements it once in float and derives the strategies of its integer precisions from that.
    """

    def linear(self, name: str, x: V) -> V:
        """The linear layer with that module path, bias included: (B, N, in) -> (B, N, out)."""
        ...

    def patch_embed(self, name: str, pixels: V) -> V:
        """The patch embedding, bias included: (B, 3, H, W) -> (B, patches, D)."""
        ...

    def attention(self, name: str, q: V, k: V, v: V) -> V:
        """softmax(q k^T * scale) v for q, k, v of (B, H, N, d); the scale is the tensor `name`.scale."""
        ...
