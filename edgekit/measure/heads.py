"""Head drift: what a head inside a file puts out, against what it makes of float features, in its task's unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from edgekit.artifact import Frozen
from edgekit.errors import DataError
from edgekit.graph.heads import Task
from edgekit.measure.statistics import CONFIDENCE, Estimate, bootstrap_counts

Measure = Literal["top-1 agreement", "mIoU", "RMSE", "MAE", "AbsRel", "delta1"]

_MEASURES: dict[Task, tuple[Measure, str]] = {
    "classification": ("top-1 agreement", ""),
    "segmentation": ("mIoU", ""),
    "depth": ("RMSE", "m"),
    "relative depth": ("MAE", "% of range"),
    "saliency": ("MAE", ""),
}
UNITS: dict[str, str] = {"depth": "metres", "relative depth": "inverse depth without unit"}
"""Units of depth maps in words, by task."""
_LEAST_RANGE = 1e-6  # of a constant map, whose errors are no share of anything
_LEAST_DEPTH = 1e-3  # metres that ratios are taken of
_DELTA1 = 1.25  # Eigen et al. 2014 (arXiv 1406.2283)

Statistic = Callable[[np.ndarray], np.ndarray]  # (resamples, n) how often each image is drawn -> (resamples,)


class Figure(Frozen):
    """A further measure of a head's drift, without unit."""

    measure: Measure
    value: Estimate


class HeadDrift(Frozen):
    """One head over n images against the float model in torch: a share, or an error in `unit` ("" has none)."""

    head: str
    task: Task
    measure: Measure
    unit: str
    n: int
    value: Estimate
    further: tuple[Figure, ...] = ()

    def summary(self) -> dict[str, Any]:
        """The few numbers that go into the manifest row."""
        rounded = {key: round(value, 6) for key, value in self.value.model_dump().items()}
        further: dict[str, Any] = {each.measure: round(each.value.value, 6) for each in self.further}
        return {"task": self.task, "measure": self.measure, "unit": self.unit, **rounded, **further}


def measure_head_drift(
    name: str, task: Task, reference: np.ndarray, candidate: np.ndarray, *, groups: Sequence[str] = (), seed: int = 0
) -> HeadDrift:
    """Compare outputs (n, ...) on the same images; the interval comes from resampling photographs (`groups`).

    classification (n, classes): share of images with the same first class. segmentation (n, classes, rows, columns):
    mean over the classes that either puts somewhere of the intersection over union of the patches' first classes.
    depth (n, H, W): root of the mean square difference in metres; further AbsRel, the mean difference as share of the
    reference's depth, and delta1, the share of places whose depths are within a factor of 1.25.
    saliency (n, H, W): mean absolute difference.
    relative depth (n, H, W), which has no unit: mean absolute difference in percent of the reference map's range.

    Raises:
        DataError: shapes differ, or values are not finite.
    """
    if reference.shape != candidate.shape or len(reference) == 0:
        raise DataError(f"outputs of the head {name}: {candidate.shape} against {reference.shape}")
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise DataError(f"the head {name} put out values that are not finite")
    measure, unit = _MEASURES[task]
    drawn = bootstrap_counts(groups, len(reference), seed=seed)
    further = _ratios(reference, candidate) if task == "depth" else {}
    return HeadDrift(
        head=name,
        task=task,
        measure=measure,
        unit=unit,
        n=len(reference),
        value=_estimate(_statistic(task, reference, candidate), drawn),
        further=tuple(Figure(measure=key, value=_estimate(_mean(each), drawn)) for key, each in further.items()),
    )


def error_of(task: Task, reference: np.ndarray, candidate: np.ndarray) -> float:
    """The error of one image's output in the unit of its task, as `measure_head_drift` has it of many."""
    return float(_statistic(task, reference[None], candidate[None])(np.ones((1, 1)))[0])


def words_of(task: Task, value: float) -> str:
    """A drift with its measure and unit: "RMSE 0.12 m"."""
    measure, unit = _MEASURES[task]
    return f"{measure} {value:.3g} {unit}".rstrip()


def _estimate(statistic: Statistic, drawn: np.ndarray) -> Estimate:
    """A statistic of all images, with the interval of its resamples."""
    low, high = np.quantile(statistic(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = float(statistic(np.ones((1, drawn.shape[1])))[0])
    return Estimate(value=value, low=float(low), high=float(high))


def _mean(values: np.ndarray) -> Statistic:
    """The mean over images of one value each (n,)."""
    return lambda drawn: drawn @ values / drawn.sum(1)


def _ratios(a: np.ndarray, b: np.ndarray) -> dict[Measure, np.ndarray]:
    """AbsRel and delta1 of each depth map (n,) against its reference."""
    flat, other = (np.maximum(x.reshape(len(x), -1).astype(np.float64), _LEAST_DEPTH) for x in (a, b))
    relative = (np.abs(other - flat) / flat).mean(1)
    return {"AbsRel": relative, "delta1": (np.maximum(flat / other, other / flat) < _DELTA1).mean(1)}


def _statistic(task: Task, a: np.ndarray, b: np.ndarray) -> Statistic:
    n = len(a)
    match task:
        case "classification":
            return _mean((a.argmax(1) == b.argmax(1)).astype(np.float64))
        case "segmentation":
            return _mean_iou(a, b)
        case "depth":
            squares = np.square(a - b, dtype=np.float64).reshape(n, -1).mean(1)
            return lambda drawn: np.sqrt(drawn @ squares / drawn.sum(1))
        case "relative depth":
            ranges = np.ptp(a.reshape(n, -1).astype(np.float64), axis=1)
            shares = 100 * np.abs(a - b).reshape(n, -1).mean(1, dtype=np.float64) / np.maximum(ranges, _LEAST_RANGE)
            return _mean(shares)
        case "saliency":
            return _mean(np.abs(a - b).reshape(n, -1).mean(1, dtype=np.float64))


def _mean_iou(a: np.ndarray, b: np.ndarray) -> Statistic:
    """Mean IoU over the whole set, as the field computes it, and not per image."""
    classes = range(a.shape[1])
    first, second = a.argmax(1).reshape(len(a), -1), b.argmax(1).reshape(len(b), -1)  # (n, patches)
    both = np.stack([((first == c) & (second == c)).sum(1) for c in classes], axis=1)  # (n, classes)
    either = np.stack([((first == c) | (second == c)).sum(1) for c in classes], axis=1)

    def statistic(drawn: np.ndarray) -> np.ndarray:
        union = drawn @ either  # (resamples, classes)
        seen = union > 0
        ratios = np.where(seen, drawn @ both / np.maximum(union, 1), 0)
        mean: np.ndarray = ratios.sum(1) / seen.sum(1)
        return mean

    return statistic
