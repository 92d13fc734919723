"""Judging students on images that trained none of them: loss and cosines to the teacher, without augmentation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from edgekit.artifact import Frozen
from edgekit.distill.distributed import DistributedContext
from edgekit.distill.loss import Parts
from edgekit.distill.student import Student

_NAMES = ("loss", "cls_cosine", "patch_cosine", "cls_centred", "patch_centred")


class Score(Frozen):
    """Means over n held-out images: the loss, cosines of class token and patches to the teacher's, as they are and
    standardised (see `edgekit.distill.loss.Standard`).
    """

    loss: float
    cls_cosine: float
    patch_cosine: float
    cls_centred: float
    patch_centred: float
    n: int


@torch.no_grad()
def judge(
    students: Mapping[str, Student], teacher: Student, pixels: np.ndarray, batch: int, context: DistributedContext
) -> dict[str, Score]:
    """Each student's score; the teacher runs once for all, the images are divided among the processes.

    Args:
        students: on the context's device; they come back in the mode they were in.
        teacher: wrapped as a student of itself.
        pixels: (n, 3, H, W), the same on every process.
        batch: images per step.
        context: its processes share the work.
    """
    mine = torch.from_numpy(pixels[context.rank :: context.size])
    sums = {name: torch.zeros(len(_NAMES), dtype=torch.float64) for name in students}
    training = {name: student.training for name, student in students.items()}
    for student in students.values():
        student.eval()
    for some in torch.split(mine, batch):
        shown = some.to(context.device)
        target = teacher.tokens(shown)
        for name, student in students.items():
            _, parts = student.compared(student.tokens(shown), target, torch.ones(len(shown), device=context.device))
            sums[name] += _sums(student, parts)
    for name, student in students.items():
        student.train(training[name])
    found = {name: context.sum(total.float()).tolist() for name, total in sums.items()}
    n = len(pixels)
    return {
        name: Score(n=n, **{key: value / n for key, value in zip(_NAMES, values, strict=True)})
        for name, values in found.items()
    }


def _sums(student: Student, parts: Parts) -> torch.Tensor:
    whole = torch.stack([student.loss.of(parts), *(getattr(parts, name) for name in _NAMES[1:])])  # (5, B)
    return whole.cpu().double().sum(1)
