"""The loss: how far a student's class token and patch tokens are from the teacher's, by angle and by value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Parts(NamedTuple):
    """Means over the tokens of each image, (B,) each: cosines, and smooth L1 distances per channel."""

    cls_cosine: Tensor
    patch_cosine: Tensor
    cls_smooth_l1: Tensor
    patch_smooth_l1: Tensor


@dataclass(frozen=True)
class TokenLoss:
    """cls * (c * (1 - cosine) + s * smooth L1) + patch * (the same of the patches).

    Cosine and smooth L1 of both kinds of tokens, as in UNIC (Sariyildiz et al. 2024, arXiv 2408.05088) and, for
    patches, AM-RADIO (Ranzinger et al. 2023, arXiv 2312.06709). Smooth L1 turns linear at a difference of one.
    """

    cls: float = 1.0
    patch: float = 1.0
    cosine: float = 1.0
    smooth_l1: float = 1.0

    def __call__(
        self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], weights: Tensor
    ) -> tuple[Tensor, Parts]:
        """Class tokens (B, D) and patches (B, P, D) of both; images weighted by (B,), divided by B whatever their sum.

        So the mean of two halves of a batch is the whole batch's loss, on however many processes.
        """
        parts = Parts(
            F.cosine_similarity(student[0], teacher[0], dim=-1),
            F.cosine_similarity(student[1], teacher[1], dim=-1).mean(-1),
            F.smooth_l1_loss(student[0], teacher[0], reduction="none").mean(-1),
            F.smooth_l1_loss(student[1], teacher[1], reduction="none").mean((-2, -1)),
        )
        return (self.of(parts) * weights).mean(), Parts(*(part.detach() for part in parts))

    def of(self, parts: Parts) -> Tensor:
        """(B,), image by image."""
        cls = self.cosine * (1 - parts.cls_cosine) + self.smooth_l1 * parts.cls_smooth_l1
        patch = self.cosine * (1 - parts.patch_cosine) + self.smooth_l1 * parts.patch_smooth_l1
        return torch.add(self.cls * cls, self.patch * patch)
