"""Progress of a long call: the protocol that every step is reported to, and how far the call is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from typing_extensions import override

Progress = Callable[[int, int], None]
"""Receives (done, total) units of one stage."""
StageProgress = Callable[[str, int, int], None]
"""Receives the name of a stage, and (done, total) of its units; total 0 means that it is not known."""


class Step(NamedTuple):
    """One part of a call. `weight` is its expected duration, in any unit that all steps of the call share."""

    name: str
    weight: float = 1.0


class Reporter(Protocol):
    """Receives the progress of a call; the command line draws it, a library call may ignore it."""

    def plan(self, steps: Sequence[Step]) -> None:
        """All steps of the call in their order, told once and before the first of them. Calls of one step have none."""
        ...

    def step(self, name: str) -> None:
        """The planned step `name` begins; steps that are never begun had nothing to do."""
        ...

    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        """`done` of `total` units of a stage of the current step are finished; total 0 means that it is not known."""
        ...

    def note(self, text: str) -> None:
        """One line that a person should read."""
        ...


class Silent(Reporter):
    """A Reporter that ignores everything."""

    @override
    def plan(self, steps: Sequence[Step]) -> None:
        pass

    @override
    def step(self, name: str) -> None:
        pass

    @override
    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        pass

    @override
    def note(self, text: str) -> None:
        pass


class Schedule:
    """Position in the steps of a call, elapsed seconds, and an estimate of those that are left.

    The rate is that of the steps that were begun and are over; skipped ones say nothing about it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds; the schedule begins now."""
        self._clock = clock
        self._steps: tuple[Step, ...] = ()
        self._current: int | None = None
        self._start = self._step_start = clock()
        self._worked_s = self._worked_weight = 0.0
        self._stage = ("", self._start, 0, 0, 0)  # name, begun at, done then, done now, total

    def plan(self, steps: Sequence[Step]) -> None:
        """Set the planned steps."""
        self._steps = tuple(steps)

    def begin(self, name: str) -> None:
        """Begin a step, which ends the one before. A name that was not planned counts for nothing."""
        now = self._clock()
        if self._current is not None:
            self._worked_s += now - self._step_start
            self._worked_weight += self._steps[self._current].weight
        first = 0 if self._current is None else self._current + 1
        places = [i for i in range(first, len(self._steps)) if self._steps[i].name == name]
        self._current, self._step_start = (places[0] if places else None), now
        self._stage = ("", now, 0, 0, 0)

    def at(self, name: str, done: int, total: int) -> None:
        """Move inside a stage; one of another name begins."""
        last, begun_at, first, _, _ = self._stage
        if name == last and done >= first:
            self._stage = (name, begun_at, first, done, total)
        else:
            self._stage = (name, self._clock(), done, done, total)

    @property
    def position(self) -> tuple[int, int] | None:
        """Progress as (number of the current step, of all steps), or done and total of a stage without known steps."""
        if self._current is not None:
            return self._current + 1, len(self._steps)
        _, _, _, done, total = self._stage
        return (done, total) if total and not self._steps else None

    @property
    def elapsed(self) -> float:
        """Seconds since the schedule was made."""
        return self._clock() - self._start

    @property
    def left(self) -> float | None:
        """Estimated seconds until the end of the call, None while there is nothing to judge by."""
        if self._current is None:
            return self.stage_left if not self._steps else None
        if not self._worked_weight:
            return None
        rate = self._worked_s / self._worked_weight
        rest = sum(step.weight for step in self._steps[self._current + 1 :])
        this = rate * self._steps[self._current].weight - (self._clock() - self._step_start)
        return rate * rest + max(this, self.stage_left or 0.0, 0.0)

    @property
    def stage_left(self) -> float | None:
        """Estimated seconds until the end of the current stage, by the pace of what this call did of it."""
        _, begun_at, first, done, total = self._stage
        if done <= first or not total:
            return None
        return (self._clock() - begun_at) / (done - first) * max(total - done, 0)


def duration(seconds: float) -> str:
    """Seconds as 0:42, 12:05 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def words(position: tuple[int, int] | None, elapsed: float, left: float | None) -> str:
    """ "3 of 11, 0:42 elapsed, about 1:20 left"; what is not known is left out."""
    parts = [f"{position[0]} of {position[1]}"] if position else []
    parts.append(f"{duration(elapsed)} elapsed")
    if left is not None:
        parts.append(f"about {duration(left)} left")
    return ", ".join(parts)
