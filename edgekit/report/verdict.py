"""The verdict: which artifact to use on the measured machine, and whether INT8 is worth it there, in one sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from edgekit.artifact import Frozen
from edgekit.backends import get_backend
from edgekit.manifest import ArtifactRow, Choice
from edgekit.measure.drift import DriftReport, Grade
from edgekit.measure.latency import LatencyReport, Speedup, paired_speedup
from edgekit.measure.noise import MAX_LOAD
from edgekit.measure.ratio import ratio
from edgekit.measure.retrieval import Retrieval
from edgekit.precision import FACTS, Precision, is_float

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


class Aim(Frozen):
    """Aim of a choice: what to be best at among the artifacts that are true enough.

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
    speedup_high: float
    drop: float
    sqnr_db: float | None  # None for the reference
    grade: Grade


Int8 = Literal["worth it", "not worth it", "loses too much", "in doubt"]


class Verdict(Frozen):
    """`choice` is None when nothing could be measured; `int8` is None when no integer model was.

    `sentence` ends with `doubt` where there is any: a busy host, unsteady rows, or a rival that is as fast.
    """

    aim: Aim
    choice: str | None
    sentence: str
    int8: Int8 | None
    int8_sentence: str
    front: tuple[str, ...]  # names no other candidate beats in both latency and drift, fastest first
    doubt: str = ""  # why the latencies may not tell; "" when they do
    retrieval: str = ""  # what an application that searches loses with the choice; "" where nothing was measured
    run: str | None = None  # id of the run whose latencies were compared

    def recorded(self) -> Choice:
        """Choice as the manifest records it."""
        return Choice(artifact=self.choice, **self.aim.model_dump(), sentence=self.sentence, run=self.run)


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
        if row.precision in get_backend(row.format).untimed_precisions:  # made for other devices than this one
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
                speedup_high=time.speedup.high if time.speedup else 1.0,
                drop=0.0 if report is None else max(0.0, 1 - report.cls_cosine.mean),
                sqnr_db=None if report is None else report.sqnr_db.value,
                grade="excellent" if report is None else report.grade,
            )
        )
    return tuple(sorted(found, key=lambda c: c.p50_ms))


def pareto(found: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Pareto front: candidates that no other beats, fastest first, each next one slower but truer."""
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
    among: Collection[str] | None = None,
) -> Verdict:
    """Choose by measurement.

    Args:
        rows: of the manifest.
        drift: by artifact name, against `reference`.
        latency: by artifact name, with speedups over `reference`; those of another run than its are left out.
        reference: the FP32 artifact.
        aim: what to be best at, and what is true enough.
        among: names that may be chosen; None is all.
    """
    latency = one_run(latency, reference)
    found = candidates(rows, drift, latency, reference=reference)
    allowed = [c for c in found if among is None or c.name in among]
    if not allowed:
        return Verdict(aim=aim, choice=None, sentence=_nothing(rows), int8=None, int8_sentence="", front=())
    fit = [c for c in allowed if (c.grade in _GOOD_ENOUGH if aim.max_drop is None else c.drop <= aim.max_drop)]
    base = next((c for c in found if c.name == reference), None)
    best = _best(fit, aim.goal, base if base in allowed else None)
    int8, int8_sentence = _int8(allowed, fit, latency)
    doubt = _doubt(best, fit, latency, aim.goal)
    sentence = _sentence(best, base, aim.goal) if best else _none_fit(allowed, aim)
    if best and (truer := _truer(best, fit)):
        sentence = f"{sentence} {truer}"
    return Verdict(
        aim=aim,
        choice=best.name if best else None,
        sentence=f"{sentence} {doubt}".rstrip(),
        int8=int8,
        int8_sentence=int8_sentence,
        front=tuple(c.name for c in pareto(allowed)),
        doubt=doubt,
        retrieval=_retrieval(best or allowed[0], drift),
        run=next((report.run.id for report in latency.values() if report.run), None),
    )


def one_run(latency: Mapping[str, LatencyReport], reference: str) -> dict[str, LatencyReport]:
    """The latencies of the reference's run (of the first one's where that was not timed): others do not compare."""
    if not latency:
        return {}
    run = latency.get(reference, next(iter(latency.values()))).run
    return {name: report for name, report in latency.items() if report.run == run}


def _doubt(best: Candidate | None, fit: Sequence[Candidate], latency: Mapping[str, LatencyReport], goal: Goal) -> str:
    """Why the choice may be another one the next time, in whole sentences."""
    said = []
    load = max((report.noise.load for report in latency.values()), default=0.0)
    unsteady = [name for name, report in latency.items() if not report.stable]
    if load > MAX_LOAD:
        said.append(f"In doubt: the host was busy, other work took {load:.0%} of its processor time meanwhile.")
    elif unsteady:
        said.append(f"In doubt: {len(unsteady)} of {len(latency)} timings were unsteady.")
    if best is not None and goal == "latency":
        rivals = [c.name for c in fit if c is not best and _against(latency, best.name, c.name).low <= 1]
        if rivals:
            more = f" and {len(rivals) - 1} more are" if len(rivals) > 1 else " is"
            said.append(f"Within the measurement's doubt {rivals[0]}{more} as fast.")
    return " ".join(said)


def _against(latency: Mapping[str, LatencyReport], name: str, rival: str) -> Speedup:
    """Speed of an artifact relative to `rival`, paired round by round where both have as many rounds."""
    mine, other = latency[name], latency[rival]
    if len(mine.times_ms) == len(other.times_ms):
        return paired_speedup(other.times_ms, mine.times_ms, rival)
    value = other.p50_ms / mine.p50_ms
    if mine.speedup is None or other.speedup is None:
        return Speedup(reference=rival, value=value, low=value, high=value)
    low, high = mine.speedup.low / other.speedup.high, mine.speedup.high / other.speedup.low
    return Speedup(reference=rival, value=value, low=min(low, value), high=max(high, value))


def _retrieval(candidate: Candidate, drift: Mapping[str, DriftReport]) -> str:
    """Sentence on what changes for searches, in a gallery of FP32 features and in one of the artifact's own."""
    report = drift.get(candidate.name)
    if report is None or is_float(candidate.precision) or report.own.nn_agreement.value is None:
        return ""
    shares = [f"{found.nn_agreement.value or 0:.0%}{_interval(found)}" for found in (report.mixed, report.own)]
    return (
        f"Of {_images(report)} {shares[0]} find the same nearest neighbour in an FP32 gallery, {shares[1]} in one "
        f"embedded again by {candidate.name}{_ties(report)}."
    )


def _images(report: DriftReport) -> str:
    if report.photographs in (None, report.n):
        return f"{report.n} images"
    return f"{report.n} crops of {report.photographs} photographs"


def _interval(found: Retrieval) -> str:
    rate = found.nn_agreement
    return "" if rate.low is None or rate.high is None else f" ({rate.low:.0%} to {rate.high:.0%})"


def _ties(report: DriftReport) -> str:
    """Clause on how many of the lost neighbours were as near as the ones that were found instead."""
    told = []
    for where, found in (("FP32", report.mixed), ("own", report.own)):
        if found.changed:
            told.append(f"{found.near_ties} of {found.changed} changes in the {where} gallery")
    if not told:
        return ""
    return f"; {' and '.join(told)} are near ties, whose FP32 similarities differ by less than the noise"


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
    if base is not None and best.name == base.name:
        return f"On this CPU stay with {best.name} ({best.p50_ms:.1f} ms): nothing measured {_NO_BETTER[goal]}."
    if base is None:
        return f"{_FOR[goal]} use {best.name} ({best.p50_ms:.1f} ms): no FP32 artifact was timed beside it."
    smaller = base.size_mb / best.size_mb if best.size_mb else 1.0
    size = f", {ratio(smaller)} smaller" if smaller > 1.2 else ""
    features = "the very same features" if best.drop <= 0 else f"features at a cosine of {alike(best.drop)}"
    return f"{_FOR[goal]} use {best.name}: {_pace(best)} FP32{size}, {features}."


def _truer(best: Candidate, fit: Sequence[Candidate]) -> str:
    """Sentence on 16-bit activations instead of the choice's 8-bit ones, where they halve the drop at least."""
    found = [c for c in fit if FACTS[c.precision].activations == "int16" and 2 * c.drop < best.drop]
    if FACTS[best.precision].activations != "int8" or not found:
        return ""
    c = min(found, key=lambda c: c.p50_ms)
    return f"{c.name} keeps more, a cosine of {alike(c.drop)}, in {c.p50_ms:.1f} ms instead of {best.p50_ms:.1f}."


def _pace(best: Candidate) -> str:
    """`2.9× faster than`, with no more digits than the measurement carries; "about as fast as" where it cannot tell."""
    if best.speedup >= 1.05 and best.speedup_low > 1:
        return f"{ratio(best.speedup, best.speedup_low, best.speedup_high)} faster than"
    if best.speedup < 0.95 and best.speedup_high < 1:
        return f"{ratio(1 / best.speedup, 1 / best.speedup_high, 1 / best.speedup_low)} slower than"
    return "about as fast as"


def alike(drop: float) -> str:
    """Mean class cosine with as many nines as it has: 0.99974."""
    if drop <= 0:
        return "exactly"
    digits = 4
    while round(1 - drop, digits) == 1 and digits < 7:
        digits += 1
    return f"{1 - drop:.{digits}f}"


def _int8(
    found: Sequence[Candidate], fit: Sequence[Candidate], latency: Mapping[str, LatencyReport]
) -> tuple[Int8 | None, str]:
    integers = [c for c in found if FACTS[c.precision].activations != "float"]
    if not integers:
        return None, ""
    good = [c for c in integers if c in fit]
    if not good:
        nearest = min(integers, key=lambda c: c.drop)
        said = f"the best, {nearest.name}{_wide(nearest)}, reaches {alike(nearest.drop)}"
        return "loses too much", f"INT8 loses too much here: {said}."
    best = good[0]
    rival = next((c for c in fit if is_float(c.precision)), None)
    against = f"the fastest float model, {rival.name}" if rival else "FP32"
    value, low, high = best.speedup, best.speedup_low, best.speedup_high
    if rival:
        gain = _against(latency, best.name, rival.name)
        value, low, high = gain.value, gain.low, gain.high
    said = f"{best.name}{_wide(best)} is {ratio(value, low, high)} as fast as {against}{_keeps_more(rival, best)}."
    if min(low, best.speedup_low) >= WORTH:
        return "worth it", f"INT8 is worth it here: {said}"
    if high >= WORTH:
        return "in doubt", f"Whether INT8 is worth it here is in doubt: {said}"
    return "not worth it", f"INT8 is not worth it here for speed: {said}"


def _keeps_more(rival: Candidate | None, best: Candidate) -> str:
    """Clause on a float model of a runtime's own arithmetic (bfloat16, say) that is faster than FP32, and truer."""
    if rival is None or not rival.drop or rival.drop >= best.drop or rival.speedup_low < WORTH:
        return ""
    return (
        f", which keeps more, a cosine of {alike(rival.drop)} instead of {alike(best.drop)}, "
        f"in a file {ratio(rival.size_mb / best.size_mb)} as large"
    )


def _wide(candidate: Candidate) -> str:
    """Remark in brackets for a file that has only its weights in 8 bits."""
    return " (8-bit weights, 16-bit activations)" if FACTS[candidate.precision].activations == "int16" else ""
