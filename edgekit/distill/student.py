"""Students: an architecture from a name, a file or a few words, and a backbone that learns with its projections."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from edgekit.artifact import Frozen
from edgekit.distill.loss import BlockLoss, Parts, Standard, Streams, TokenLoss, Tokens
from edgekit.errors import RecipeError
from edgekit.models import zoo
from edgekit.models.config import Ffn, Positions
from edgekit.models.vit import VisionTransformer
from edgekit.settings import read_settings, validated

Segment = tuple[int, int]  # of the teacher's blocks: first, and the one after the last


class StudentSpec(Frozen):
    """The request for a student: a field that is None is the named architecture's, else the teacher's.

    `init` is "teacher" (blocks copied from it), "random", or the name or path of a checkpoint of the same shapes;
    "auto" takes the teacher where its blocks fit. `blocks` are the teacher's that begin the student, in order; by
    default evenly many apart, from the first on: 0, 2, 4, 6, 8, 10 of 12.
    """

    arch: str | None = None
    depth: int | None = Field(default=None, ge=1)
    width: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    registers: int | None = Field(default=None, ge=0)
    ffn: Ffn | None = None
    hidden: int | None = Field(default=None, ge=1)
    patch: int | None = Field(default=None, ge=1, le=128)
    positions: Positions | None = None
    blocks: tuple[int, ...] | None = None
    init: str = "auto"

    @classmethod
    def parse(cls, text: str) -> StudentSpec:
        """Parse a name of `edgekit models`, a .toml or .json file, or words: "depth=6,registers=4,blocks=0+2+4+7+9+11".

        Raises:
            RecipeError: none of these, or an unknown key or impossible value.
        """
        problem = f"--student {text!r} is not valid"
        if "=" in text:
            values: dict[str, Any] = {}
            for word in text.split(","):
                key, _, value = (part.strip() for part in word.partition("="))
                if not key or not value or key in values:
                    raise RecipeError(f"{problem}: {word!r}", fix="--student depth=6,blocks=0+2+4+7+9+11")
                values[key] = value.split("+") if key == "blocks" else value
            return validated(cls, values, problem, command="distill")
        if Path(text).suffix in (".toml", ".json"):
            return validated(cls, read_settings(Path(text)), f"{text} describes no student", command="distill")
        return cls(arch=known_arch(text))


class Student(nn.Module):
    """A backbone that learns, and where widths differ a linear map of each kind of token to the teacher's width."""

    def __init__(
        self,
        backbone: VisionTransformer,
        width: int,
        loss: TokenLoss,
        seed: int,
        segments: Sequence[Segment] = (),
        side: int = 0,
    ) -> None:
        """Add maps to the teacher's `width`, which are dropped when the student graduates.

        `side` is that of the images it looks at: crops of another size are resampled to it; 0 takes them as they are.
        """
        super().__init__()
        self.side = side
        self.backbone, self.loss, self.standard = backbone, loss, Standard(width)
        self.segments, self.block_loss = tuple(segments), BlockLoss(len(segments), width)
        generator = torch.Generator().manual_seed(seed)
        same = backbone.config.width == width
        self.of_cls: nn.Module = nn.Identity() if same else _linear(backbone.config.width, width, generator)
        self.of_patches: nn.Module = nn.Identity() if same else _linear(backbone.config.width, width, generator)
        self.autocast: torch.dtype | None = None

    def tokens(self, pixels: Tensor) -> Tokens:
        """Class tokens (B, D) and patches (B, P, D) float32 of pixels (B, 3, H, W), D the teacher's width."""
        with self._precision(pixels):
            return self._ends(self.backbone(self._sized(pixels))[0])

    def taught(self, pixels: Tensor, bounds: Collection[int]) -> tuple[Tokens, Streams]:
        """The tokens, and the residual streams (B, N, D) before the blocks of those numbers."""
        streams = {}
        with self._precision(pixels):
            x = self.backbone.embed(self._sized(pixels))
            for number, block in enumerate(self.backbone.blocks):
                if number in bounds:
                    streams[number] = x
                x = block(x)
            if len(self.backbone.blocks) in bounds:
                streams[len(self.backbone.blocks)] = x
            return self._ends(self.backbone.finish(x)), streams

    def forward(
        self, pixels: Tensor, target: Tokens, weights: Tensor, streams: Streams | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss to descend, its images weighted by (B,), and the unweighted means (2 + parts,) for the log.

        With the teacher's `streams`, of each block alone: it is given what the teacher has before its segment and
        compared with what the teacher has after it.
        """
        if streams is None:
            loss, parts = self.compared(self.tokens(pixels), target, weights)
            numbers = [self.loss.of(parts).mean(), *(part.mean() for part in parts)]
            return loss, torch.stack([torch.full_like(loss, math.nan), *numbers])
        each = []
        for number, (block, (start, stop)) in enumerate(zip(self.backbone.blocks, self.segments, strict=True)):
            with self._precision(pixels):
                found = block(streams[start])
            each.append(self.block_loss(number, found.float(), streams[stop].float()))
        losses = torch.stack(each).mean(0)  # (B,)
        missing = torch.full((1 + len(Parts._fields),), math.nan, device=losses.device)
        return (losses * weights).mean(), torch.cat([losses.detach().mean()[None], missing])

    def mask_key_bias(self) -> None:
        """Drop the gradients of the keys' biases where positions are rotary: DINOv3 masks these biases."""
        if self.backbone.rotation is None:
            return
        for block in self.backbone.blocks:
            bias = block.attn.qkv.bias
            if bias.grad is not None:
                bias.grad.unflatten(0, (3, -1))[1] = 0

    def compared(self, mine: Tokens, theirs: Tokens, weights: Tensor) -> tuple[Tensor, Parts]:
        """The loss of tokens that are there already, and its parts."""
        return self.loss(mine, theirs, weights, self.standard)

    def _ends(self, hidden: Tensor) -> Tokens:
        cls, patches = self.of_cls(hidden[:, 0]), self.of_patches(hidden[:, 1 + self.backbone.config.registers :])
        return cls.float(), patches.float()

    def _sized(self, pixels: Tensor) -> Tensor:
        """Crops at the side at which this model has as many patches as the teacher."""
        if self.side in (0, pixels.shape[-1]):
            return pixels
        return F.interpolate(pixels, size=(self.side, self.side), mode="bicubic", antialias=True)

    def _precision(self, pixels: Tensor) -> AbstractContextManager[object]:
        return torch.autocast(pixels.device.type, self.autocast) if self.autocast else nullcontext()


def known_arch(name: str) -> str:
    """The name of an architecture as the zoo spells it. Raises RecipeError where there is none, with the nearest."""
    try:
        return zoo.find(name).name
    except RecipeError as error:
        raise RecipeError(
            f"unknown student {name!r}: no architecture, no .toml or .json file, no words like depth=6",
            why=error.why,
            fix="--student depth=6",
        ) from None


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=inputs**-0.5, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
