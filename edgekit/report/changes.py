"""Changes since an earlier build: each artifact's numbers then and now, and the verdict of the gate."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.errors import DataError
from edgekit.measure.gate import compare_builds
from edgekit.report import numbers
from edgekit.report.content import BuildReport


@dataclass(frozen=True)
class Change:
    """One artifact; pairs are (then, now) as text, a dash where it was not measured."""

    name: str
    sqnr: tuple[str, str]
    cosine: tuple[str, str]
    size: tuple[str, str]
    p50: tuple[str, str]
    speed: tuple[str, str]
    memory: tuple[str, str]
    worse: tuple[str, ...]  # why the gate would fail


def refuse_incomparable(before: BuildReport, now: BuildReport) -> None:
    """Raises DataError where the two builds were measured at another image size, or on other images."""
    sizes = [_size(report) for report in (before, now)]
    if None not in sizes and sizes[0] != sizes[1]:
        then_, now_ = ("x".join(map(str, size or ())) for size in sizes)
        raise DataError(
            f"the earlier build takes images of {then_} pixels, this one of {now_}",
            why="neither latency nor drift can be compared",
            fix="--against a build of the same size",
        )
    if not (before.drift and now.drift):
        return
    same = set(_images(before)) == set(_images(now))
    if before.images_digest and now.images_digest:
        same = before.images_digest == now.images_digest
    if not same:
        raise DataError(
            f"the earlier build was judged on other images: {before.evaluation or len(_images(before))}, this one on "
            f"{now.evaluation or len(_images(now))}",
            why="their drift cannot be compared",
            fix="build again with the same --eval, --eval-samples and --seed",
        )


def _size(report: BuildReport) -> tuple[int, int] | None:
    """Image size of the first artifact that was made, which is of the main one."""
    return next((row.preprocess.input_size for row in report.manifest.artifacts if row.preprocess), None)


def _images(report: BuildReport) -> list[str]:
    """Names of the evaluation images."""
    return [image.name for image in next(iter(report.drift.values())).images]


def changes(before: BuildReport, now: BuildReport) -> tuple[Change, ...]:
    """All artifacts of either build, in the order of the new one.

    Raises:
        DataError: they were measured at another image size or on other images.
    """
    refuse_incomparable(before, now)
    failed: dict[str, list[str]] = {}
    for check in compare_builds(now.manifest, before.manifest):
        if check.outcome == "failed":
            failed.setdefault(check.artifact, []).append(check.reason)
    names = dict.fromkeys(row.name for report in (now, before) for row in report.manifest.artifacts)
    rows = []
    for name in names:
        then_, now_ = _cells(before, name), _cells(now, name)
        pairs = {key: (then_[key], now_[key]) for key in now_}
        rows.append(Change(name, **pairs, worse=tuple(failed.get(name, ()))))
    return tuple(rows)


def _cells(report: BuildReport, name: str) -> dict[str, str]:
    row = next((row for row in report.manifest.artifacts if row.name == name), None)
    drift, latency = report.drift.get(name), report.latency.get(name)
    return {
        "sqnr": numbers.decibels(drift.sqnr_db.value if drift else None),
        "cosine": numbers.cosine(drift.cls_cosine.mean if drift else None),
        "size": numbers.megabytes(row.size_mb if row else None),
        "p50": numbers.milliseconds(latency.p50_ms if latency else None),
        "speed": numbers.speed(latency.speedup if latency else None),
        "memory": numbers.megabytes(latency.peak_rss_mb if latency else None),
    }
