"""Students of one architecture with the same first weights and images, and the averages of their weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.distill.beginning import Beginning
from edgekit.distill.judge import Score
from edgekit.distill.loss import TokenLoss
from edgekit.distill.student import Student

EMA, AVERAGE = "ema", "average"


@dataclass(frozen=True)
class Group:
    """Students of one architecture, and the EMA of their mean weights, which has no gradients of its own."""

    name: str
    students: tuple[Student, ...]
    ema: Student

    @classmethod
    def of(cls, name: str, beginning: Beginning, copies: int, width: int, loss: TokenLoss, seed: int) -> Group:
        """A group of `copies` students with the same first weights, projections to `width` included."""
        first = Student(beginning.model, width, loss, seed, beginning.segments, beginning.side).train()
        first.backbone.mask_token.requires_grad_(False)  # only pre-training uses it
        if first.backbone.rotation is None:
            first.backbone.pos_embed.requires_grad_(beginning.positions == "learned")
        ema = deepcopy(first).eval().requires_grad_(False)
        return cls(name, (first, *(deepcopy(first) for _ in range(copies - 1))), ema)

    @torch.no_grad()
    def follow(self, decay: float, step: int) -> None:
        """One EMA step with warm-up: ema <- d * ema + (1 - d) * mean of the students' weights.

        With d = min(decay, (1 + step) / (10 + step)): the decay grows from 0.1, so that early weights are forgotten.
        """
        share = 1 - min(decay, (1 + step) / (10 + step))
        for mine, *theirs in zip(self.ema.parameters(), *(s.parameters() for s in self.students), strict=True):
            mine.lerp_(_mean(theirs), share)

    @torch.no_grad()
    def average(self) -> Student:
        """A student with the plain average of the students' weights."""
        averaged = deepcopy(self.ema)
        for mine, *theirs in zip(averaged.parameters(), *(s.parameters() for s in self.students), strict=True):
            mine.copy_(_mean(theirs))
        return averaged

    def members(self) -> Iterator[tuple[str, Student]]:
        """Candidates for graduation by name: each student, their average where there are several, and their EMA."""
        for number, student in enumerate(self.students, 1):
            yield f"student {number}", student
        if len(self.students) > 1:
            yield AVERAGE, self.average()
        yield EMA, self.ema


def chosen(scores: dict[str, Score]) -> str:
    """The name of the graduate: the better average on the held-out images.

    A single student where even that is worse than the mean of the students, which happens when they have
    moved apart too far to be averaged; then it is the best of them.
    """
    students = {name: score for name, score in scores.items() if name not in (EMA, AVERAGE)}
    averages = {name: score for name, score in scores.items() if name in (EMA, AVERAGE)}
    best = min(averages, key=lambda name: averages[name].loss)
    mean = sum(score.loss for score in students.values()) / len(students)
    return best if averages[best].loss <= mean else min(students, key=lambda name: students[name].loss)


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.stack(list(tensors)).mean(0)


def learned(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters that are trained, by name."""
    return [(name, value) for name, value in module.named_parameters() if value.requires_grad]
