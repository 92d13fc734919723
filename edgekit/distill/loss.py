"""The distillation loss: distance of a student's class and patch tokens from the teacher's, by angle and by value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tokens = tuple[Tensor, Tensor]  # class tokens (B, D) and patches (B, P, D)
Streams = dict[int, Tensor]  # the residual stream (B, N, D) before the block of that number
_LEAST_DEVIATION = 1e-3
_LEAST_SHARE = 1e-2  # of the mean energy: channels that hardly change must not rule the loss


class Parts(NamedTuple):
    """Means over the tokens of each image, (B,) each.

    The first two are cosines of the tokens as they are. The others are of standardised tokens: cosines, which no
    vector common to all images makes look better than they are, and smooth L1 distances per channel.
    """

    cls_cosine: Tensor
    patch_cosine: Tensor
    cls_centred: Tensor
    patch_centred: Tensor
    cls_smooth_l1: Tensor
    patch_smooth_l1: Tensor


class Standard(nn.Module):
    """The teacher's mean and deviation per channel, of class tokens and of patches; at first 0 and 1.

    DINOv2's tokens share a large common vector: without it in the way, the loss is about what tells images apart. As
    in UNIC (Sariyildiz et al. 2024, arXiv 2408.05088) and AM-RADIO's later models; both sides are standardised alike,
    so that the best student still has the teacher's own tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        for kind in ("cls", "patch"):
            self.register_buffer(f"{kind}_mean", torch.zeros(width))
            self.register_buffer(f"{kind}_std", torch.ones(width))

    def set(self, kind: str, mean: Tensor, square: Tensor) -> None:
        """Set mean and deviation from the means (D,) of tokens and of their squares."""
        self.get_buffer(f"{kind}_mean").copy_(mean)
        self.get_buffer(f"{kind}_std").copy_((square - mean**2).clamp_min(0).sqrt().clamp_min(_LEAST_DEVIATION))

    def forward(self, tokens: Tokens) -> Tokens:
        """Both kinds of tokens in deviations from their mean."""
        cls, patch = (
            (x - self.get_buffer(f"{kind}_mean")) / self.get_buffer(f"{kind}_std")
            for kind, x in zip(("cls", "patch"), tokens, strict=True)
        )
        return cls, patch


@dataclass(frozen=True)
class TokenLoss:
    """cls * (c * (1 - cosine) + s * smooth L1) + patch * (the same of the patches), all of standardised tokens.

    Cosine and smooth L1 of both kinds of tokens, as in UNIC and, for patches, AM-RADIO (Ranzinger et al. 2023, arXiv
    2312.06709). Smooth L1 turns linear at a difference of one.
    """

    cls: float = 1.0
    patch: float = 1.0
    cosine: float = 1.0
    smooth_l1: float = 1.0

    def __call__(self, student: Tokens, teacher: Tokens, weights: Tensor, standard: Standard) -> tuple[Tensor, Parts]:
        """Images are weighted by (B,) and divided by B, whatever the weights' sum.

        So the mean of two halves of a batch is the whole batch's loss, on however many processes.
        """
        mine, theirs = standard(student), standard(teacher)
        with torch.no_grad():
            plain = [F.cosine_similarity(a, b, dim=-1) for a, b in zip(student, teacher, strict=True)]
        parts = Parts(
            plain[0],
            plain[1].mean(-1),
            F.cosine_similarity(mine[0], theirs[0], dim=-1),
            F.cosine_similarity(mine[1], theirs[1], dim=-1).mean(-1),
            F.smooth_l1_loss(mine[0], theirs[0], reduction="none").mean(-1),
            F.smooth_l1_loss(mine[1], theirs[1], reduction="none").mean((-2, -1)),
        )
        return (self.of(parts) * weights).mean(), Parts(*(part.detach() for part in parts))

    def of(self, parts: Parts) -> Tensor:
        """The loss of each image (B,)."""
        cls = self.cosine * (1 - parts.cls_centred) + self.smooth_l1 * parts.cls_smooth_l1
        patch = self.cosine * (1 - parts.patch_centred) + self.smooth_l1 * parts.patch_smooth_l1
        return torch.add(self.cls * cls, self.patch * patch)


class BlockLoss(nn.Module):
    """Relative error of one student block that stands for a segment of the teacher's blocks.

    Squared errors relative to the energy that the segment adds to the stream, over all channels and channel by channel,
    of the class token and of all others apart: 0 is perfect, 1 is a block that adds nothing useful.
    """

    def __init__(self, segments: int, width: int) -> None:
        super().__init__()
        self.register_buffer("energy", torch.ones(segments, 2, width))

    def set(self, segment: int, added: Tensor) -> None:
        """Set the energy of a segment from the mean squares (2, D) that it adds to class tokens and to the others."""
        floor = _LEAST_SHARE * added.mean(-1, keepdim=True)
        self.get_buffer("energy")[segment].copy_(torch.maximum(added, floor))

    def forward(self, segment: int, mine: Tensor, theirs: Tensor) -> Tensor:
        """The loss of each image (B,), from streams (B, N, D) after the segment."""
        error = kinds(mine - theirs)  # (B, 2, D)
        energy = self.get_buffer("energy")[segment]
        whole = error.mean(-1) / energy.mean(-1)
        return (whole + (error / energy).mean(-1)).mean(-1) / 2


def kinds(change: Tensor) -> Tensor:
    """Mean squares (B, 2, D) of a stream (B, N, D): of the class token, and over all other tokens."""
    squares = change.square()
    return torch.stack([squares[:, 0], squares[:, 1:].mean(1)], 1)
