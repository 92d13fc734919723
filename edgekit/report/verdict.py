"""The verdict: which artifact to use on the measured machine, and whether INT8 is worth it there, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from edgekit.artifact import ArtifactRow, Choice, Frozen
from edgekit.measure.drift import DriftReport, Grade
from edgekit.measure.latency import LatencyReport
from edgekit.precision import Precision

Goal = Literal["latency", "size", "accuracy"]

WORTH = 1.1  # an integer model must be this much faster, beyond doubt, to be worth its drift
_GOOD_ENOUGH: tuple[Grade, ...] = ("excellent", "good")
_FOR: dict[Goal, str] = {
    "latency": "On this CPU",
    "size": "For the smallest file",
    "accuracy": "For speed at the least drift",
}
_NO_BETTER: dict[Goal, str] = {
    "latency": "is both faster and as true",
    "size": "is both smaller and true enough",
    "accuracy": "is faster beyond doubt and true enough",
}
_INTEGER: tuple[Precision, ...] = ("w8a8", "w4a8")
_FLOAT: tuple[Precision, ...] = ("fp32", "fp16")
_ELSEWHERE: frozenset[Precision] = frozenset({"w8a16"})  # made for other devices than the one that measures


class Aim(Frozen):
    """What to be best at among the artifacts that are true enough.

    "accuracy" takes the truest of those that are faster than FP32 beyond doubt: none is truer than FP32 itself.
    """

    goal: Goal = "latency"
    max_drop: float | None = None  # largest 1 - class cosine that is true enough; None: a grade of good or better


class Candidate(Frozen):
    """An artifact as the verdict sees it: `drop` is 1 - mean class cosine (0 for the reference)."""

    name: str
    precision: Precision
    p50_ms: float
    size_mb: float
    speedup: float
    speedup_low: float
    drop: float
    sqnr_db: float | None  # None for the reference
    grade: Grade


class Verdict(Frozen):
    """`choice` is None when nothing could be measured; `int8` is None when no integer model was."""

    aim: Aim
    choice: str | None
    sentence: str
    int8: Literal["worth it", "not worth it", "loses too much"] | None
    int8_sentence: str
    front: tuple[str, ...]  # names no other candidate beats in both latency and drift, fastest first

    def recorded(self) -> Choice:
        """What the manifest says of it."""
        return Choice(artifact=self.choice, **self.aim.model_dump(), sentence=self.sentence)


def candidates(
    rows: Sequence[ArtifactRow],
    drift: Mapping[str, DriftReport],
    latency: Mapping[str, LatencyReport],
    *,
    reference: str,
) -> tuple[Candidate, ...]:
    """The artifacts that were measured in both ways, fastest first; the reference drifts from itself by nothing."""
    found = []
    for row in rows:
        if row.precision in _ELSEWHERE:
            continue
        if row.status != "ok" or row.name not in latency or (row.name not in drift and row.name != reference):
            continue
        time, report = latency[row.name], drift.get(row.name)
        found.append(
            Candidate(
                name=row.name,
                precision=row.precision,
                p50_ms=time.p50_ms,
                size_mb=row.size_mb or 0.0,
                speedup=time.speedup.value if time.speedup else 1.0,
                speedup_low=time.speedup.low if time.speedup else 1.0,
                drop=0.0 if report is None else max(0.0, 1 - report.cls_cosine.mean),
                sqnr_db=None if report is None else report.sqnr_db.value,
                grade="excellent" if report is None else report.grade,
            )
        )
    return tuple(sorted(found, key=lambda c: c.p50_ms))


def pareto(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those that no other beats: fastest first, each next one slower but truer."""
    front: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.p50_ms, c.drop)):
        if not front or candidate.drop < front[-1].drop:
            front.append(candidate)
    return tuple(front)


def judge(
    rows: Sequence[ArtifactRow],
    drift: Mapping[str, DriftReport],
    latency: Mapping[str, LatencyReport],
    *,
    reference: str,
    aim: Aim = Aim(),  # noqa: B008 - frozen
) -> Verdict:
    """Choose by measurement.

    Args:
        rows: of the manifest.
        drift: by artifact name, against `reference`.
        latency: by artifact name, with speedups over `reference`.
        reference: the FP32 artifact.
        aim: what to be best at, and what is true enough.
    """
    found = candidates(rows, drift, latency, reference=reference)
    if not found:
        return Verdict(aim=aim, choice=None, sentence=_nothing(rows), int8=None, int8_sentence="", front=())
    fit = [c for c in found if (c.grade in _GOOD_ENOUGH if aim.max_drop is None else c.drop <= aim.max_drop)]
    base = next((c for c in found if c.name == reference), None)
    best = _best(fit, aim.goal, base)
    int8, int8_sentence = _int8(found, fit)
    return Verdict(
        aim=aim,
        choice=best.name if best else None,
        sentence=_sentence(best, base, aim.goal) if best else _none_fit(found, aim),
        int8=int8,
        int8_sentence=int8_sentence,
        front=tuple(c.name for c in pareto(found)),
    )


def _best(fit: Sequence[Candidate], goal: Goal, base: Candidate | None) -> Candidate | None:
    if goal == "latency":
        return min(fit, key=lambda c: c.p50_ms, default=None)
    if goal == "size":
        return min(fit, key=lambda c: (c.size_mb, c.p50_ms), default=None)
    return min((c for c in fit if c.speedup_low >= WORTH), key=lambda c: (c.drop, c.p50_ms), default=base)


def _none_fit(found: Sequence[Candidate], aim: Aim) -> str:
    if aim.max_drop is None:
        return "No artifact keeps the features close enough to be recommended."
    least = min(found, key=lambda c: c.drop)
    return f"No artifact drops at most {aim.max_drop:g}: {least.name}, the truest, drops {least.drop:.2g}."


def _nothing(rows: Sequence[ArtifactRow]) -> str:
    made = sum(row.status == "ok" for row in rows)
    if not made:
        return "No artifact could be built; the table says why."
    return (
        f"{made} artifact{'s were' if made > 1 else ' was'} built, but none was both run and compared on this machine."
    )


def _sentence(best: Candidate, base: Candidate | None, goal: Goal) -> str:
    if base is None or best.name == base.name:
        return f"On this CPU stay with {best.name} ({best.p50_ms:.1f} ms): nothing measured {_NO_BETTER[goal]}."
    pace = f"{best.speedup:.2g}× faster than" if best.speedup >= 1.05 else "about as fast as"
    if best.speedup < 0.95:
        pace = f"{1 / best.speedup:.2g}× slower than"
    size = f", {base.size_mb / best.size_mb:.2g}× smaller" if best.size_mb and base.size_mb > 1.2 * best.size_mb else ""
    features = "the very same features" if best.drop <= 0 else f"features at a cosine of {alike(best.drop)}"
    return f"{_FOR[goal]} use {best.name}: {pace} FP32{size}, {features}."


def alike(drop: float) -> str:
    """Mean class cosine with as many nines as it has: 0.99974."""
    if drop <= 0:
        return "exactly"
    digits = 4
    while round(1 - drop, digits) == 1 and digits < 7:
        digits += 1
    return f"{1 - drop:.{digits}f}"


def _int8(
    found: Sequence[Candidate], fit: Sequence[Candidate]
) -> tuple[Literal["worth it", "not worth it", "loses too much"] | None, str]:
    integers = [c for c in found if c.precision in _INTEGER]
    if not integers:
        return None, ""
    good = [c for c in integers if c in fit]
    if not good:
        nearest = min(integers, key=lambda c: c.drop)
        return "loses too much", f"INT8 loses too much here: the best, {nearest.name}, reaches {alike(nearest.drop)}."
    best = good[0]
    floats = [c for c in fit if c.precision in _FLOAT]
    rival = floats[0] if floats else None
    gain = rival.p50_ms / best.p50_ms if rival else best.speedup
    against = f"the fastest float model, {rival.name}" if rival else "FP32"
    if best.speedup_low >= WORTH and gain >= WORTH:
        return "worth it", f"INT8 is worth it here: {best.name} is {gain:.2f}× as fast as {against}."
    return "not worth it", f"INT8 is not worth it here for speed: {best.name} is {gain:.2f}× as fast as {against}."
