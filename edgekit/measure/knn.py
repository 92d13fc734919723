"""DINOv2's k-NN classifier: the classes of the k most alike images vote, each by the softmax of its cosine."""

from __future__ import annotations

import numpy as np

from edgekit.measure.retrieval import normalized

TEMPERATURE = 0.07


def knn_predictions(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Class numbers (n,) that the k nearest give to each query, leaving out the query's own image.

    As in facebookresearch/dinov2's `dinov2/eval/knn.py` (Wu et al. 2018), on one set that is gallery and query at once.

    Args:
        queries: class tokens (n, D).
        gallery: class tokens (n, D) of the same images in the same order, of the same model or another.
        labels: class numbers (n,) of those images, from 0.
        k: neighbours that vote; all others when there are fewer.
    """
    similarity = normalized(queries) @ normalized(gallery).T  # (n, n)
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(labels) - 1)]  # (n, k)
    found: np.ndarray = _votes(np.take_along_axis(similarity, nearest, axis=1), labels[nearest]).argmax(axis=1)
    return found


def gallery_votes(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Votes (n, classes) of a whole gallery of other images (m, D) with class numbers (m,), as the head in a graph."""
    similarity = normalized(queries) @ normalized(gallery).T
    return _votes(similarity, np.broadcast_to(labels, similarity.shape))


def _votes(similarity: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Votes (n, classes) from the cosines (n, k) and classes (n, k) of neighbours."""
    weights = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / TEMPERATURE)
    votes = np.zeros((len(similarity), int(labels.max()) + 1))
    np.add.at(votes, (np.arange(len(similarity))[:, None], labels), weights)
    return votes
