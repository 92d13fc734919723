"""Fits a classification head on frozen features: logistic regression, or a gallery for k-NN."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgekit.errors import DataError
from edgekit.measure.knn import gallery_votes
from edgekit.measure.statistics import Rate, rate

Kind = Literal["linear", "knn"]

LEAST_PER_CLASS = 5  # one of which is held out
_FOLDS = 5  # a fifth is held out
_STRENGTHS = np.logspace(-4, 1, 6)  # of C, for features of variance one


@dataclass(frozen=True)
class FittedHead:
    """Tensors as `edgekit.heads.read` takes them, and the accuracy of a head that was fitted without the held-out."""

    state: dict[str, np.ndarray]
    classes: tuple[str, ...]
    images: int
    accuracy: Rate


def fit_head(
    cls: np.ndarray, mean_patch: np.ndarray, labels: Sequence[str], kind: Kind, *, seed: int = 0
) -> FittedHead:
    """Fit on four fifths, judge on the rest (every class in both), then fit on all images.

    Args:
        cls: class tokens (n, D) behind the final norm.
        mean_patch: mean patch tokens (n, D), which the linear head sees as well, as the official ones do.
        labels: class of each image.
        kind: "linear" (logistic regression, its strength chosen by cross-validation) or "knn".
        seed: of the split.

    Raises:
        DataError: fewer than two classes, or fewer than five images of one.
    """
    from sklearn.model_selection import StratifiedKFold

    classes = classes_of(labels)
    numbers = np.array([classes.index(label) for label in labels])
    train, judge = next(StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(cls, numbers))
    if kind == "knn":
        votes = gallery_votes(cls[judge], cls[train], numbers[train])
        gallery: dict[str, np.ndarray] = {"gallery": np.array(cls, np.float32), "labels": numbers.astype(np.int64)}
        return FittedHead(gallery, classes, len(cls), rate(votes.argmax(1) == numbers[judge], seed=seed))
    features = np.concatenate([cls, mean_patch], axis=1)
    strength = _best_strength(features[train], numbers[train], seed)
    weight, bias = _logistic(features[train], numbers[train], strength)
    hits = (features[judge] @ weight.T + bias).argmax(1) == numbers[judge]
    weight, bias = _logistic(features, numbers, strength)
    state: dict[str, np.ndarray] = {
        "weight": np.array(weight, np.float32, order="C"),
        "bias": np.array(bias, np.float32),
    }
    return FittedHead(state, classes, len(cls), rate(hits, seed=seed))


def classes_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels in order. Raises DataError when they are too few, or too few images have one of them."""
    sizes = Counter(labels)
    if len(sizes) < 2:
        raise DataError(f"{len(sizes)} class is none to tell apart", fix="one folder for each of two classes or more")
    if small := [f"{name} ({size})" for name, size in sorted(sizes.items()) if size < LEAST_PER_CLASS]:
        raise DataError(
            f"too few images of {', '.join(small)}",
            why=f"{LEAST_PER_CLASS} of each class are needed",
            fix="add images, or move those folders away",
        )
    return tuple(sorted(sizes))


def _best_strength(features: np.ndarray, numbers: np.ndarray, seed: int) -> float:
    """The regularisation of best accuracy in three folds; of equal ones the strongest."""
    from sklearn.model_selection import StratifiedKFold

    folds = [*StratifiedKFold(3, shuffle=True, random_state=seed).split(features, numbers)]
    scores = []
    for strength in _STRENGTHS:
        hits = 0
        for train, judge in folds:
            weight, bias = _logistic(features[train], numbers[train], strength)
            hits += int(((features[judge] @ weight.T + bias).argmax(1) == numbers[judge]).sum())
        scores.append(hits)
    return float(_STRENGTHS[int(np.argmax(scores))])


def _logistic(features: np.ndarray, numbers: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (classes, inputs) and bias over the features themselves: their standardisation is folded in."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=strength, max_iter=500).fit(scaler.transform(features), numbers)
    weight, bias = found.coef_, found.intercept_
    if len(weight) == 1:  # of two classes scikit-learn keeps the difference alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    return weight, bias - weight @ scaler.mean_
