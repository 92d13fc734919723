"""Task accuracy: what k-NN and a linear probe make of a candidate's features, image by image beside the reference's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

import numpy as np

from edgekit.artifact import Frozen
from edgekit.measure.features import Features
from edgekit.measure.knn import knn_predictions
from edgekit.measure.probe import FOLDS, Probe
from edgekit.measure.statistics import Estimate, Rate, rate

LEAST_IMAGES = 50  # below this one image is more than two points
LEAST_PER_CLASS = FOLDS  # smaller classes are left out: no fold of the probe would have one to train on
_Z = 1.959964  # of a 95 % normal interval

Protocol = Literal["knn10", "knn20", "probe"]
Base = Literal["own", "reference"]
_IN_MANIFEST: dict[tuple[Protocol, Base], str] = {
    ("knn20", "own"): "knn",
    ("knn20", "reference"): "knn_mixed",
    ("probe", "reference"): "probe",
}
_NEIGHBOURS: dict[Protocol, int] = {"knn10": 10, "knn20": 20}
_KNN: tuple[tuple[Protocol, Base], ...] = (("knn10", "own"), ("knn20", "own"), ("knn20", "reference"))


class AccuracyDrift(Frozen):
    """Accuracy of a candidate beside the reference's on the same n labelled images, and whether the two differ.

    `base` says whose features the gallery (or, of a probe, the head) is made of. `drop` is the accuracy that was lost,
    paired, with its 95 % interval; `p_value` is McNemar's. All are None, with a `reason`, where n is too small.
    """

    protocol: Protocol
    base: Base
    n: int
    classes: int
    reference: Rate
    candidate: Rate
    lost: int  # images only the reference gets right
    gained: int  # images only the candidate gets right
    drop: Estimate | None
    p_value: float | None
    reason: str = ""

    @property
    def title(self) -> str:
        """`k-NN (20)`, `k-NN (20), FP32 gallery`, `linear probe`."""
        if self.protocol == "probe":
            return "linear probe"
        return f"k-NN ({_NEIGHBOURS[self.protocol]})" + (", FP32 gallery" if self.base == "reference" else "")

    def summary(self) -> dict[str, float | None]:
        """The few numbers that go into the manifest row; none of the protocols that only the full report shows."""
        if self.drop is None or (self.protocol, self.base) not in _IN_MANIFEST:
            return {}
        name = _IN_MANIFEST[self.protocol, self.base]
        drop = {f"{name}_drop": self.drop.value, f"{name}_drop_low": self.drop.low, f"{name}_drop_high": self.drop.high}
        return {f"{name}_accuracy": self.candidate.value, **drop}


class AccuracyJudge:
    """The reference's answers on labelled images, made once; every candidate is compared with them."""

    def __init__(self, reference: Features, labels: Sequence[str], *, seed: int = 0) -> None:
        """`labels` name the class of each image; classes of fewer than five images are left out."""
        sizes = Counter(labels)
        classes = sorted(label for label, size in sizes.items() if size >= LEAST_PER_CLASS)
        self._kept = np.array([i for i, label in enumerate(labels) if label in classes], np.int64)
        self._labels = np.array([classes.index(labels[i]) for i in self._kept], np.int64)
        self._reference = reference.cls[self._kept]
        self.classes = len(classes)
        self.reason = _too_few(len(self._kept), len(classes))
        self._probe = None
        if not self.reason and find_spec("sklearn"):
            self._probe = Probe.fit(self._reference, self._labels, seed=seed)

    def measure(self, candidate: Features) -> tuple[AccuracyDrift, ...]:
        """k-NN of 10 and 20 in the candidate's own gallery, of 20 in the reference's, and the reference's probe."""
        features, labels = candidate.cls[self._kept], self._labels
        if self.reason:
            return (self._compared("knn20", "own", labels, labels),)
        found = []
        for protocol, base in _KNN:
            gallery, k = features if base == "own" else self._reference, _NEIGHBOURS[protocol]
            before = knn_predictions(self._reference, self._reference, labels, k)
            found.append(self._compared(protocol, base, before, knn_predictions(features, gallery, labels, k)))
        if self._probe is not None:
            before, after = (self._probe.predictions(tokens) for tokens in (self._reference, features))
            found.append(self._compared("probe", "reference", before, after))
        return tuple(found)

    def _compared(self, protocol: Protocol, base: Base, before: np.ndarray, after: np.ndarray) -> AccuracyDrift:
        was, is_ = before == self._labels, after == self._labels
        lost, gained = int((was & ~is_).sum()), int((~was & is_).sum())
        refused = bool(self.reason)
        return AccuracyDrift(
            protocol=protocol,
            base=base,
            n=len(self._labels),
            classes=self.classes,
            reference=self._rate(was),
            candidate=self._rate(is_),
            lost=lost,
            gained=gained,
            drop=None if refused else paired_drop(lost, gained, len(self._labels)),
            p_value=None if refused else mcnemar(lost, gained),
            reason=self.reason,
        )

    def _rate(self, hits: np.ndarray) -> Rate:
        return Rate(value=None, n=len(hits), reason=self.reason) if self.reason else rate(hits)


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p-value (McNemar 1947) that as many images are lost as gained by chance alone."""
    n = lost + gained
    tail = sum(math.comb(n, i) for i in range(min(lost, gained) + 1)) / 2**n
    return min(1.0, 2 * tail)


def paired_drop(lost: int, gained: int, n: int) -> Estimate:
    """Paired drop (lost - gained) / n with Agresti and Min's 95 % interval for matched pairs (2005), never empty."""
    centre, doubt = (lost - gained) / (n + 2), math.sqrt(lost + gained + 1 - (lost - gained) ** 2 / (n + 2)) / (n + 2)
    return Estimate(value=(lost - gained) / n, low=max(-1.0, centre - _Z * doubt), high=min(1.0, centre + _Z * doubt))


def _too_few(images: int, classes: int) -> str:
    if classes < 2:
        return f"{classes} classes have {LEAST_PER_CLASS} images or more; two are needed"
    if images < LEAST_IMAGES:
        return f"{images} labelled images are too few for an accuracy (at least {LEAST_IMAGES} are needed)"
    return ""
