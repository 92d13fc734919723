"""Students: an architecture from a name, a file or a few words, its first weights, and projections to the teacher."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekit.artifact import Frozen
from edgekit.distill.loss import BlockLoss, Parts, Standard, Streams, TokenLoss, Tokens
from edgekit.errors import RecipeError
from edgekit.models import zoo
from edgekit.models.architecture import arch_of
from edgekit.models.config import Ffn, ViTConfig
from edgekit.models.vit import VisionTransformer
from edgekit.settings import read_settings, validated

Segment = tuple[int, int]  # of the teacher's blocks: first, and the one after the last
_SHAPES = ("width", "heads", "ffn", "ffn_hidden")  # what two models need in common to share blocks
_HEAD_DIM = 64
_STD = 0.02  # of official first weights (facebookresearch/dinov2, dinov2/models/vision_transformer.py)


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
        return cls(arch=_known(text))


@dataclass(frozen=True)
class Beginning:
    """A student before its first step: where its weights come from, and whether its position embedding learns."""

    model: VisionTransformer
    name: str  # "dinov2_384x6"
    init: str  # "blocks 0, 2, ... of the teacher", "random", or the checkpoint's name
    positions: str  # "frozen" or "learned"
    segments: tuple[Segment, ...] = ()  # where its blocks can learn one by one


def begin(spec: StudentSpec, teacher: VisionTransformer, *, side: int, seed: int) -> Beginning:
    """Make a student's backbone with its first weights.

    Position embeddings that come with a checkpoint stay as they are: at one training size only some of their grid
    points are ever read, and the others would no longer fit. Random ones are learned at the grid of the training size.

    Raises:
        RecipeError: a `side` that is no multiple of the patch, shapes that contradict each other, blocks that the
            teacher lacks, or a checkpoint of other shapes.
        DataError: the checkpoint of `init` cannot be read.
    """
    wanted = _config(spec, teacher.config)
    _refuse_other_input(wanted, teacher.config)
    grid = wanted.grid_of(side, side)
    differ = [name for name in _SHAPES if getattr(wanted, name) != getattr(teacher.config, name)]
    init = spec.init
    if init == "auto":
        fits = not differ and (spec.blocks is not None or wanted.depth <= teacher.config.depth)
        init = "teacher" if fits or spec.blocks is not None else "random"
    if init == "teacher":
        if differ:
            told = ", ".join(f"{n} {getattr(wanted, n)} is not {getattr(teacher.config, n)}" for n in differ)
            raise RecipeError("the teacher's blocks do not fit the student", why=told, fix="init=random in --student")
        chosen = _blocks(spec, wanted.depth, teacher.config.depth)
        model = _from_teacher(teacher, replace(wanted, grid=teacher.config.grid), chosen, seed)
        same = wanted.registers == teacher.config.registers  # else the streams have other tokens
        segments = segments_of(chosen, teacher.config.depth) if same else ()
        init = f"blocks {', '.join(map(str, chosen))} of the teacher"
        return Beginning(model, wanted.arch, init, "frozen", segments)
    if spec.blocks is not None:
        raise RecipeError(f"blocks of the teacher and init = {init!r} contradict each other", fix="leave one out")
    if init == "random":
        wanted = replace(wanted, grid=grid)
        return Beginning(_random(VisionTransformer(wanted), seed), wanted.arch, "random", "learned")
    loaded = zoo.load(init)
    bad = [n for n in (*_SHAPES, "depth", "registers") if getattr(loaded.model.config, n) != getattr(wanted, n)]
    if bad:
        told = ", ".join(f"{name} {getattr(loaded.model.config, name)}, not {getattr(wanted, name)}" for name in bad)
        raise RecipeError(f"{loaded.name} is another architecture than the student's", why=told)
    return Beginning(loaded.model, wanted.arch, loaded.name, "frozen")


def _refuse_other_input(student: ViTConfig, teacher: ViTConfig) -> None:
    """Teacher and student look at the same ImageNet-normalised pixels, patch by patch."""
    if student.patch != teacher.patch:
        raise RecipeError(
            f"the student's patches have {student.patch} pixels, the teacher's {teacher.patch}",
            why="each patch token learns from the teacher's of the same place",
        )
    if (student.normalization, teacher.normalization) != ("imagenet", "imagenet"):
        raise RecipeError(
            f"{teacher.arch} is of pixels with {teacher.normalization} statistics",
            why="distillation prepares images with ImageNet's mean and deviation",
        )


def _blocks(spec: StudentSpec, depth: int, of: int) -> tuple[int, ...]:
    """The teacher's blocks that initialise a student of `depth`."""
    if spec.blocks is not None:
        return spec.blocks
    if depth > of:
        raise RecipeError(
            f"a student of {depth} blocks cannot begin with those of a teacher of {of}", fix="init=random in --student"
        )
    return tuple(i * of // depth for i in range(depth))


def segments_of(blocks: Sequence[int], of: int) -> tuple[Segment, ...]:
    """Teacher segments of a student's blocks: from its teacher's block up to the next one's, () if not in order.

    The first begins at the image, the last ends at the teacher's end: blocks 0, 2, 4 of 6 do (0, 2), (2, 4), (4, 6).
    """
    bounds = [0, *blocks[1:], of]
    rising = all(a < b for a, b in pairwise(bounds))
    return tuple(pairwise(bounds)) if rising else ()


class Student(nn.Module):
    """A backbone that learns, and where widths differ a linear map of each kind of token to the teacher's width."""

    def __init__(
        self, backbone: VisionTransformer, width: int, loss: TokenLoss, seed: int, segments: Sequence[Segment] = ()
    ) -> None:
        """Add maps to the teacher's `width`, which are dropped when the student graduates."""
        super().__init__()
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
            return self._ends(self.backbone(pixels)[0])

    def taught(self, pixels: Tensor, bounds: Collection[int]) -> tuple[Tokens, Streams]:
        """The tokens, and the residual streams (B, N, D) before the blocks of those numbers."""
        streams = {}
        with self._precision(pixels):
            x = self.backbone.embed(pixels)
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

    def compared(self, mine: Tokens, theirs: Tokens, weights: Tensor) -> tuple[Tensor, Parts]:
        """The loss of tokens that are there already, and its parts."""
        return self.loss(mine, theirs, weights, self.standard)

    def _ends(self, hidden: Tensor) -> Tokens:
        cls, patches = self.of_cls(hidden[:, 0]), self.of_patches(hidden[:, 1 + self.backbone.config.registers :])
        return cls.float(), patches.float()

    def _precision(self, pixels: Tensor) -> AbstractContextManager[object]:
        return torch.autocast(pixels.device.type, self.autocast) if self.autocast else nullcontext()


def _known(name: str) -> str:
    try:
        return zoo.find(name).name
    except RecipeError as error:
        raise RecipeError(
            f"unknown student {name!r}: no architecture, no .toml or .json file, no words like depth=6",
            why=error.why,
            fix="--student depth=6",
        ) from None


def _config(spec: StudentSpec, teacher: ViTConfig) -> ViTConfig:
    base = zoo.find(_known(spec.arch)).config if spec.arch else teacher
    given = {
        name: value
        for name in ("depth", "width", "heads", "registers", "ffn", "hidden")
        if (value := getattr(spec, name)) is not None
    }
    if spec.blocks is not None:
        given["depth"] = len(spec.blocks)
        if spec.depth not in (None, len(spec.blocks)):
            raise RecipeError(f"depth {spec.depth} and {len(spec.blocks)} blocks contradict each other")
        outside = [block for block in spec.blocks if not 0 <= block < teacher.depth]
        if outside:
            raise RecipeError(f"the teacher has no block {outside[0]}", why=f"its blocks are 0 to {teacher.depth - 1}")
    if ("width" in given or "ffn" in given) and "hidden" not in given:
        given["hidden"] = 0  # the usual multiple of the width
    if "width" in given and "heads" not in given:
        given["heads"] = max(1, given["width"] // _HEAD_DIM)
    config = replace(base, **given)
    if config.width % config.heads:
        raise RecipeError(f"width {config.width} does not split into {config.heads} heads", fix="heads=N in --student")
    return replace(config, arch=arch_of(config))


@torch.no_grad()
def _from_teacher(teacher: VisionTransformer, config: ViTConfig, blocks: Sequence[int], seed: int) -> VisionTransformer:
    config = replace(config, interpolation=teacher.config.interpolation)
    student = _random(VisionTransformer(config), seed)
    own, state = student.state_dict(), teacher.state_dict()
    for name, value in state.items():
        if not name.startswith("blocks.") and name in own and own[name].shape == value.shape:  # registers may differ
            own[name].copy_(value)
    for index, block in enumerate(blocks):
        student.blocks[index].load_state_dict(teacher.blocks[block].state_dict())
    return student


@torch.no_grad()
def _random(model: VisionTransformer, seed: int) -> VisionTransformer:
    """Official first weights, but LayerScale as Touvron et al. 2021 begin it at each depth.

    DINOv2 begins all of them at 1e-5, which takes more steps to open up than most distillations have.
    """
    generator = torch.Generator().manual_seed(seed)
    opening = 0.1 if model.config.depth <= 18 else 1e-5
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):
            parameter.fill_(opening)
        elif name in ("cls_token", "register_tokens"):
            parameter.normal_(std=1e-6, generator=generator)
        elif name == "mask_token" or name.endswith("bias"):
            parameter.zero_()
        elif "norm" in name:
            parameter.fill_(1)
        else:
            nn.init.trunc_normal_(parameter, std=_STD, generator=generator)
    return model


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=inputs**-0.5, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
