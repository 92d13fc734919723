"""Retrieval drift: whether an image still finds the same neighbours among the others by class-token cosine."""

from __future__ import annotations

import numpy as np

from edgekit.artifact import Frozen
from edgekit.measure.statistics import MIN_IMAGES_FOR_RATE, Rate, rate

RECALL_DEPTH = 5


class Retrieval(Frozen):
    """Share of images whose nearest neighbour stayed, and the mean overlap of the five nearest."""

    nn_agreement: Rate
    recall_at_5: Rate


def normalized(vectors: np.ndarray) -> np.ndarray:
    """(n, D) rows of length one."""
    result: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return result


def nearest(queries: np.ndarray, gallery: np.ndarray, count: int) -> np.ndarray:
    """(n, count) gallery indices by falling cosine; query i never finds gallery i, which is the same image."""
    similarity = normalized(queries) @ normalized(gallery).T  # (n, n)
    np.fill_diagonal(similarity, -np.inf)
    order: np.ndarray = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return order


def retrieval_drift(
    reference: np.ndarray, candidate: np.ndarray, *, seed: int = 0
) -> tuple[Retrieval, Retrieval, np.ndarray]:
    """Drift of neighbourhoods of class tokens (n, D).

    Returns:
        `own` (each model searches its own gallery), `mixed` (the candidate searches the reference's), and per image
        (n,) bool whether its nearest neighbour stayed in `own`.
    """
    n = len(reference)
    if n < 2:
        nothing = Rate(value=None, n=n, reason="one image has no neighbours")
        none = Retrieval(nn_agreement=nothing, recall_at_5=nothing)
        return none, none, np.ones(n, bool)
    depth = min(RECALL_DEPTH, n - 1)
    truth = nearest(reference, reference, depth)
    own, own_same = _retrieval(truth, nearest(candidate, candidate, depth), seed)
    mixed, _ = _retrieval(truth, nearest(candidate, reference, depth), seed)
    return own, mixed, own_same


def _retrieval(truth: np.ndarray, found: np.ndarray, seed: int) -> tuple[Retrieval, np.ndarray]:
    same = truth[:, 0] == found[:, 0]
    overlap = np.array([len(set(a) & set(b)) / truth.shape[1] for a, b in zip(truth, found, strict=True)])
    recall = rate(overlap, seed=seed, least=max(MIN_IMAGES_FOR_RATE, 2 * RECALL_DEPTH))
    return Retrieval(nn_agreement=rate(same, seed=seed), recall_at_5=recall), same
