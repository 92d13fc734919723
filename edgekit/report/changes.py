"""Changes since an earlier build: each artifact's numbers then and now, and the verdict of the gate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgekit.errors import DataError
from edgekit.measure.gate import compare_builds
from edgekit.report import numbers
from edgekit.report.content import BuildReport

Turn = Literal["worse", "better", "changed", "unchanged", "new", "gone"]
"""What became of an artifact: worse is what the gate would refuse, better what it would refuse the other way round,
unchanged what has the same drift and size."""
_TURNS: tuple[Turn, ...] = get_args(Turn)


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
    verdict: Turn
    worse: tuple[str, ...]  # why the gate would fail

    def cells(self) -> list[tuple[str, tuple[str, str]]]:
        """The heading of each pair, with the pair."""
        return [
            ("SQNR", self.sqnr),
            ("CLS cosine", self.cosine),
            ("size", self.size),
            ("p50", self.p50),
            ("vs FP32", self.speed),
            ("peak RSS", self.memory),
        ]


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
    """All artifacts of either build: the worse ones first, then in the order of the new one.

    Raises:
        DataError: they were measured at another image size or on other images.
    """
    refuse_incomparable(before, now)
    failed, gained = _failed(now, before), _failed(before, now)
    there = [{row.name for row in report.manifest.artifacts if row.status == "ok"} for report in (before, now)]
    rows = []
    for name in dict.fromkeys(row.name for report in (now, before) for row in report.manifest.artifacts):
        then_, now_ = _cells(before, name), _cells(now, name)
        pairs = {key: (then_[key], now_[key]) for key in now_}
        same = all(then_[key] == now_[key] for key in ("sqnr", "cosine", "size"))  # times differ between any two runs
        turn: Turn = "unchanged" if same else "changed"
        if name not in there[0] and name in there[1]:
            turn = "new"
        elif name in there[0] and name not in there[1]:
            turn = "gone"
        elif name in failed:
            turn = "worse"
        elif name in gained:
            turn = "better"
        rows.append(Change(name, **pairs, verdict=turn, worse=tuple(failed.get(name, ()))))
    return tuple(sorted(rows, key=lambda row: not row.worse))


def summary(found: Sequence[Change]) -> str:
    """One sentence with the counts of what became of the artifacts."""
    counts = Counter(change.verdict for change in found)
    told = [f"{counts[turn]} {turn}" for turn in _TURNS if counts[turn]]
    return f"Of {len(found)} artifacts {', '.join(told)}." if told else ""


def _failed(now: BuildReport, before: BuildReport) -> Mapping[str, list[str]]:
    """Reasons by artifact why the gate refuses `now` beside `before`."""
    failed: dict[str, list[str]] = {}
    for check in compare_builds(now.manifest, before.manifest):
        if check.outcome == "failed":
            failed.setdefault(check.artifact, []).append(check.reason)
    return failed


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
