"""A linear probe: logistic regression on frozen class tokens, trained on the reference's and given the candidate's."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.measure.retrieval import normalized

FOLDS = 5
_STRENGTHS = np.logspace(-1, 4, 6)  # of C, the best of which is found within each fold's training images


@dataclass(frozen=True)
class Probe:
    """One head per fold: the images that a head judges are none that it was trained on."""

    heads: tuple[tuple[np.ndarray, Any], ...]  # indices that the head judges, and the head

    @classmethod
    def fit(cls, features: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> Probe:
        """Train on class tokens (n, D) and class numbers (n,), of which every class has at least `FOLDS`.

        As in facebookresearch/dinov2's `dinov2/eval/log_regression.py`: features of length one, L-BFGS, the
        regularisation chosen on held-out images.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegressionCV
        from sklearn.model_selection import StratifiedKFold

        unit = normalized(features)
        heads = []
        for train, judge in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(unit, labels):
            head = LogisticRegressionCV(
                Cs=_STRENGTHS, cv=3, max_iter=1000, scoring="accuracy", l1_ratios=(0.0,), use_legacy_attributes=False
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                heads.append((judge, head.fit(unit[train], labels[train])))
        return cls(tuple(heads))

    def predictions(self, features: np.ndarray) -> np.ndarray:
        """Class numbers (n,) for class tokens (n, D) of the images of `fit`, in their order."""
        unit = normalized(features)
        found = np.empty(len(unit), np.int64)
        for judge, head in self.heads:
            found[judge] = head.predict(unit[judge])
        return found
