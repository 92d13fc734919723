"""Retrieval drift: whether an image still finds the same neighbours among the others by class-token cosine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.artifact import Frozen
from edgekit.measure.statistics import MIN_IMAGES_FOR_RATE, Rate, rate

RECALL_DEPTH = 5


class Retrieval(Frozen):
    """Share of images whose nearest neighbour stayed, and the mean overlap of the five nearest.

    `changed` counts the images that found another neighbour than in float. Of these, `near_ties` found one that float
    features place less than `noise` behind the first: the standard deviation of how much the candidate moves the
    difference of two cosines. A near tie costs an application little, as both neighbours were as good.
    """

    nn_agreement: Rate
    recall_at_5: Rate
    changed: int = 0
    near_ties: int = 0
    noise: float = 0.0


def normalized(vectors: np.ndarray) -> np.ndarray:
    """The rows (n, D) scaled to length one."""
    result: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return result


def nearest(queries: np.ndarray, gallery: np.ndarray, count: int) -> np.ndarray:
    """Indices (n, count) of gallery vectors by falling cosine; query i never finds gallery i, the same image."""
    return _nearest(_similarity(queries, gallery), count)


def retrieval_drift(
    reference: np.ndarray, candidate: np.ndarray, *, groups: Sequence[str] = (), seed: int = 0
) -> tuple[Retrieval, Retrieval, np.ndarray]:
    """Drift of neighbourhoods of class tokens (n, D); `groups` name the photograph of each image, see `rate`.

    Returns:
        `own` (each model searches its own gallery), `mixed` (the candidate searches the reference's), and per image
        (n,) bool whether its nearest neighbour stayed in `own`.
    """
    n = len(reference)
    if n < 2:
        nothing = Rate(value=None, n=n, reason="one image has no neighbours")
        none = Retrieval(nn_agreement=nothing, recall_at_5=nothing)
        return none, none, np.ones(n, bool)
    truth = _similarity(reference, reference)
    own, own_same = _retrieval(truth, _similarity(candidate, candidate), groups, seed)
    mixed, _ = _retrieval(truth, _similarity(candidate, reference), groups, seed)
    return own, mixed, own_same


def _similarity(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Cosines (n, n), -inf where an image would find itself."""
    similarity: np.ndarray = normalized(queries) @ normalized(gallery).T
    np.fill_diagonal(similarity, -np.inf)
    return similarity


def _nearest(similarity: np.ndarray, count: int) -> np.ndarray:
    order: np.ndarray = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return order


def _retrieval(truth: np.ndarray, found: np.ndarray, groups: Sequence[str], seed: int) -> tuple[Retrieval, np.ndarray]:
    """Retrieval drift from the cosines (n, n) of the float model and of the candidate."""
    n = len(truth)
    depth = min(RECALL_DEPTH, n - 1)
    expected, actual = _nearest(truth, depth), _nearest(found, depth)
    same = expected[:, 0] == actual[:, 0]
    overlap = np.array([len(set(a) & set(b)) / depth for a, b in zip(expected, actual, strict=True)])
    least = max(MIN_IMAGES_FOR_RATE, 2 * RECALL_DEPTH)
    rows = np.arange(n)
    gap = truth[rows, expected[:, 0]] - truth[rows, actual[:, 0]]
    noise = _noise(truth, found)
    return Retrieval(
        nn_agreement=rate(same, groups=groups, seed=seed),
        recall_at_5=rate(overlap, groups=groups, seed=seed, least=least),
        changed=int((~same).sum()),
        near_ties=int((~same & (gap < noise)).sum()),
        noise=noise,
    ), same


def _noise(truth: np.ndarray, found: np.ndarray) -> float:
    """Standard deviation of the change of a difference of two cosines of one query: what all share moves no order."""
    n = len(truth)
    others = ~np.eye(n, dtype=bool)
    moved = (found[others] - truth[others]).reshape(n, n - 1)
    return float(np.sqrt(2 * moved.var(axis=1, dtype=np.float64).mean()))
