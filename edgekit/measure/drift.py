"""Feature drift: how far a candidate's features are from the reference's on the same pixels, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgekit.artifact import Frozen
from edgekit.errors import DataError
from edgekit.measure.accuracy import AccuracyDrift
from edgekit.measure.features import Features
from edgekit.measure.heads import HeadDrift
from edgekit.measure.retrieval import Retrieval, nearest, retrieval_drift
from edgekit.measure.statistics import Estimate, Spread, bootstrap_ratio, decibel, spread
from edgekit.measure.task import TaskDrift
from edgekit.measure.terms import Centre, Terms, patch_sum, terms_of
from edgekit.precision import REFERENCE

Grade = Literal["excellent", "good", "acceptable", "broken"]

ALL_PAIRS = 4096  # images that are compared with one another: their cosines are 64 MB
WORST = 100  # images that a report of more than that names
_OUTLIER_SIGMA = 3.0  # patch norms this many deviations above the mean are the field's "outlier tokens"

# Mean class-token and mean patch cosine that a grade needs. The field has no standard; these are edgekit's own bands:
# FP16 exports reach 0.99999, the published INT8 (bitsandbytes) of a ViT-B 0.996.

_GRADES: tuple[tuple[Grade, float, float], ...] = (
    ("excellent", 0.999, 0.998),
    ("good", 0.995, 0.995),
    ("acceptable", 0.99, 0.985),
)


class ImageDrift(Frozen):
    """Drift of one image: cosines of its class token and patches, SQNR in dB over all its tokens, and its neighbour."""

    name: str
    cls_cosine: float
    patch_cosine_mean: float
    patch_cosine_min: float
    sqnr_db: float
    nearest: str  # image whose class token the reference finds nearest; "" where none was looked for
    nearest_same: bool


class DriftReport(Frozen):
    """Drift of `candidate` against `reference` over n images. Cosines are dimensionless, energies ratios in dB.

    "Centred" cosines are taken after the reference's mean token is subtracted: DINOv2 tokens share a large common
    vector that makes plain cosines look better than they are. `own` retrieval searches each model's own class tokens,
    `mixed` searches the reference's gallery with the candidate's queries, as an app with an old index would. All
    intervals resample the `photographs` that the n images are of or crops of.
    """

    reference: str
    candidate: str
    n: int
    photographs: int | None = None  # None in reports of earlier versions
    image_size: tuple[int, int]  # (height, width) in pixels
    seed: int
    cls_cosine: Spread
    centred_cls_cosine: Spread | None  # None with one image
    patch_cosine: Spread
    centred_patch_cosine: Spread
    normal_patch_cosine_mean: float
    outlier_patch_cosine_mean: float | None  # None when no patch norm exceeds mean + 3 deviations
    outlier_patches: int
    sqnr_db: Estimate  # all final tokens
    cls_sqnr_db: Estimate
    patch_sqnr_db: Estimate
    own: Retrieval
    mixed: Retrieval
    images: tuple[ImageDrift, ...]
    tasks: tuple[TaskDrift, ...] = ()
    accuracy: tuple[AccuracyDrift, ...] = ()  # where the images are labelled
    heads: tuple[HeadDrift, ...] = ()  # that are in the file

    @property
    def grade(self) -> Grade:
        """The best of excellent, good, acceptable whose mean class and patch cosines are both reached, else broken."""
        for grade, cls, patch in _GRADES:
            if self.cls_cosine.mean >= cls and self.patch_cosine.mean >= patch:
                return grade
        return "broken"

    def worst(self, count: int) -> tuple[ImageDrift, ...]:
        """The images that drifted most, by SQNR, worst first."""
        return tuple(sorted(self.images, key=lambda image: image.sqnr_db)[:count])

    def summary(self) -> dict[str, Any]:
        """The few numbers that go into the manifest row."""
        numbers: dict[str, float | None] = {
            "cls_cosine_mean": self.cls_cosine.mean,
            "cls_cosine_p1": self.cls_cosine.p1,
            "cls_cosine_min": self.cls_cosine.min,
            "patch_cosine_mean": self.patch_cosine.mean,
            "patch_cosine_p1": self.patch_cosine.p1,
            "patch_cosine_min": self.patch_cosine.min,
            "centred_patch_cosine_mean": self.centred_patch_cosine.mean,
            "sqnr_db": self.sqnr_db.value,
            "nn_agreement": self.own.nn_agreement.value,
            "recall_at_5": self.own.recall_at_5.value,
            "nn_agreement_mixed": self.mixed.nn_agreement.value,
            "recall_at_5_mixed": self.mixed.recall_at_5.value,
        }
        for task in self.tasks:
            numbers[f"{task.head}_mae"] = task.mae.value
            numbers[f"{task.head}_iou"] = task.iou.value
        for accuracy in self.accuracy:
            numbers |= accuracy.summary()
        rounded = {key: None if value is None else round(value, 6) for key, value in numbers.items()}
        heads = {"heads": {head.head: head.summary() for head in self.heads}} if self.heads else {}
        counted = {
            "nn_changed": self.own.changed,
            "nn_near_ties": self.own.near_ties,
            "nn_changed_mixed": self.mixed.changed,
            "nn_near_ties_mixed": self.mixed.near_ties,
            "n": self.n,
            "photographs": self.photographs,
        }
        return {**rounded, **heads, **counted, "grade": self.grade, "reference": self.reference}


@dataclass(frozen=True)
class OnTasks:
    """Drift of tasks on the images of a drift report."""

    maps: tuple[TaskDrift, ...] = ()  # of dense heads on top of the features, see `measure_map_drift`
    accuracy: tuple[AccuracyDrift, ...] = ()  # of k-NN and of a probe on the features, see `AccuracyJudge`
    heads: tuple[HeadDrift, ...] = ()  # of the candidate's own heads, see `measure_head_drift`


def measure_drift(
    reference: Features,
    candidate: Features,
    *,
    reference_name: str = REFERENCE,
    candidate_name: str = "candidate",
    seed: int = 0,
    on_tasks: OnTasks = OnTasks(),
) -> DriftReport:
    """Compare two models' features of the same images in the same order.

    Args:
        reference: usually of the FP32 model.
        candidate: of the quantized or converted one.
        reference_name: shown in the report.
        candidate_name: shown in the report.
        seed: of the bootstrap.
        on_tasks: drift of tasks on the same images.

    Raises:
        DataError: the two are not of the same images and shape, or hold values that are not finite.
    """
    _require_comparable(reference, candidate, candidate_name)
    patches = reference.grid[0] * reference.grid[1]
    sums = np.stack([patch_sum(tokens, patches) for tokens in reference.tokens])
    terms = terms_of(reference.tokens, candidate.tokens, patches, Centre.of(reference.cls, sums, patches))
    return report_of(
        terms,
        reference.names,
        (reference.grid[0] * reference.patch, reference.grid[1] * reference.patch),
        reference_name=reference_name,
        candidate_name=candidate_name,
        seed=seed,
        groups=reference.groups,
        on_tasks=on_tasks,
    )


def report_of(
    terms: Terms,
    names: Sequence[str],
    image_size: tuple[int, int],
    *,
    reference_name: str,
    candidate_name: str,
    seed: int = 0,
    groups: Sequence[str] = (),
    on_tasks: OnTasks = OnTasks(),
) -> DriftReport:
    """Sum up what the images add, see `measure_drift`; `groups` name the photograph of each image.

    Above 4096 images, neighbours are looked for among 4096 drawn by `seed`, and `images` are the 100 worst.
    """
    n = len(terms)
    patches, norms = terms.patches, terms.norms
    outlier = norms > norms.mean() + _OUTLIER_SIGMA * norms.std()
    registers_signal, registers_noise = terms.signal[:, 2], terms.noise[:, 2]
    all_signal = terms.signal[:, :2].sum(axis=1) + registers_signal
    all_noise = terms.noise[:, :2].sum(axis=1) + registers_noise
    compared = searched(n, seed)
    own, mixed, same = retrieval_drift(
        terms.reference_cls[compared],
        terms.candidate_cls[compared],
        groups=[groups[i] for i in compared] if groups else (),
        seed=seed,
    )
    neighbours: dict[int, tuple[str, bool]] = {}
    if n > 1:
        found = nearest(terms.reference_cls[compared], terms.reference_cls[compared], 1)[:, 0]
        neighbours = {
            int(i): (names[compared[j]], bool(kept)) for i, j, kept in zip(compared, found, same, strict=True)
        }
    sqnr = [decibel(signal, noise) for signal, noise in zip(all_signal, all_noise, strict=True)]
    shown = range(n) if n <= ALL_PAIRS else sorted(np.argsort(sqnr, kind="stable")[:WORST].tolist())
    images = tuple(
        ImageDrift(
            name=names[i],
            cls_cosine=float(terms.cls[i]),
            patch_cosine_mean=float(patches[i].mean()),
            patch_cosine_min=float(patches[i].min()),
            sqnr_db=sqnr[i],
            nearest=neighbours.get(i, ("", True))[0],
            nearest_same=neighbours.get(i, ("", True))[1],
        )
        for i in shown
    )
    return DriftReport(
        reference=reference_name,
        candidate=candidate_name,
        n=n,
        photographs=len(set(groups)) or n,
        image_size=image_size,
        seed=seed,
        cls_cosine=spread(terms.cls, groups=groups, seed=seed),
        centred_cls_cosine=spread(terms.centred_cls, groups=groups, seed=seed) if n > 1 else None,
        patch_cosine=spread(patches, groups=groups, seed=seed),
        centred_patch_cosine=spread(terms.centred, groups=groups, seed=seed),
        normal_patch_cosine_mean=float(patches[~outlier].mean()),
        outlier_patch_cosine_mean=float(patches[outlier].mean()) if outlier.any() else None,
        outlier_patches=int(outlier.sum()),
        sqnr_db=_sqnr(all_signal, all_noise, groups, seed),
        cls_sqnr_db=_sqnr(terms.signal[:, 0], terms.noise[:, 0], groups, seed),
        patch_sqnr_db=_sqnr(terms.signal[:, 1], terms.noise[:, 1], groups, seed),
        own=own,
        mixed=mixed,
        images=images,
        tasks=on_tasks.maps,
        accuracy=on_tasks.accuracy,
        heads=on_tasks.heads,
    )


def searched(n: int, seed: int) -> np.ndarray:
    """Indices of the images whose neighbours are looked for: all, or 4096 of them, since all pairs would not fit."""
    if n <= ALL_PAIRS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, ALL_PAIRS, replace=False))


def _require_comparable(reference: Features, candidate: Features, name: str) -> None:
    if reference.tokens.shape != candidate.tokens.shape or reference.grid != candidate.grid:
        raise DataError(
            f"features of {name} have shape {candidate.tokens.shape}, the reference's {reference.tokens.shape}",
            fix="measure both on the same images at the same size",
        )
    if reference.names != candidate.names:
        raise DataError(f"features of {name} are of other images than the reference's")
    for who, features in (("the reference", reference), (name, candidate)):
        bad = int((~np.isfinite(features.tokens)).sum())
        if bad:
            raise DataError(f"{who} put out {bad} values that are not finite (NaN or infinite)")


def _sqnr(signal: np.ndarray, noise: np.ndarray, groups: Sequence[str], seed: int) -> Estimate:
    """Signal-to-quantization-noise ratio in dB of energies (n,) summed over images."""
    ratio = bootstrap_ratio(noise, signal, groups=groups, seed=seed)
    return Estimate(value=decibel(1.0, ratio.value), low=decibel(1.0, ratio.high), high=decibel(1.0, ratio.low))
