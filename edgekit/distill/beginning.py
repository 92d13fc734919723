"""The first weights of a student: the teacher's, as far as its architecture goes, random ones, or a checkpoint's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.distill.student import Segment, StudentSpec, known_arch
from edgekit.errors import RecipeError
from edgekit.models import zoo
from edgekit.models.architecture import arch_of
from edgekit.models.config import ViTConfig
from edgekit.models.rope import slowest_first
from edgekit.models.vit import Attention, VisionTransformer

_SHAPES = ("width", "heads", "ffn", "ffn_hidden")  # what two models need in common to share blocks
_LAYOUT = ("depth", "registers", "patch", "positions")  # and what else to be one architecture
_HEAD_DIM = 64
_STD = 0.02  # of official first weights (facebookresearch/dinov2, dinov2/models/vision_transformer.py)
_RIDGE = 1e-6  # of the mean variance of a head's queries and keys: some channels of a head may be dead


@dataclass(frozen=True)
class Beginning:
    """A student before its first step: where its weights come from, and whether its position embedding learns."""

    model: VisionTransformer
    name: str  # "dinov2_384x6"
    init: str  # "blocks 0, 2, ... of the teacher", "random", or the checkpoint's name
    positions: str  # "frozen" or "learned"; of no consequence for rotary ones
    side: int  # pixels of its images: as many patches as the teacher's
    segments: tuple[Segment, ...] = ()  # where its blocks can learn one by one


def begin(spec: StudentSpec, teacher: VisionTransformer, *, side: int, seed: int) -> Beginning:
    """Make a student's backbone with its first weights.

    Position embeddings that come with a checkpoint stay as they are: at one training size only some of their grid
    points are ever read, and the others would no longer fit. Random ones are learned at the grid of the training size.

    Args:
        spec: the request.
        teacher: in float32, on the CPU.
        side: pixels of the teacher's crops. A student of larger or smaller patches sees as many of them.
        seed: of random weights.

    Raises:
        RecipeError: a `side` that is no multiple of the patch, shapes that contradict each other, blocks that the
            teacher lacks, or a checkpoint of other shapes.
        DataError: the checkpoint of `init` cannot be read.
    """
    wanted = _config(spec, teacher.config)
    _refuse_other_pixels(wanted, teacher.config)
    grid = teacher.config.grid_of(side, side)
    own = grid[0] * wanted.patch
    differ = [name for name in _SHAPES if getattr(wanted, name) != getattr(teacher.config, name)]
    init = spec.init
    if init == "auto":
        fits = not differ and (spec.blocks is not None or wanted.depth <= teacher.config.depth)
        init = "teacher" if fits or spec.blocks is not None else "random"
    if init == "teacher":
        if differ:
            told = ", ".join(f"{n} {getattr(wanted, n)} is not {getattr(teacher.config, n)}" for n in differ)
            raise RecipeError("the teacher's blocks do not fit the student", why=told, fix="init=random in --student")
        blocks = _blocks(spec, wanted.depth, teacher.config.depth)
        return _with_teacher(teacher, replace(wanted, grid=grid), blocks, own, seed)
    if spec.blocks is not None:
        raise RecipeError(f"blocks of the teacher and init = {init!r} contradict each other", fix="leave one out")
    if init == "random":
        return Beginning(
            _random(VisionTransformer(replace(wanted, grid=grid)), seed), wanted.arch, "random", "learned", own
        )
    loaded = zoo.load(init)
    bad = [n for n in (*_SHAPES, *_LAYOUT) if getattr(loaded.model.config, n) != getattr(wanted, n)]
    if bad:
        told = ", ".join(f"{name} {getattr(loaded.model.config, name)}, not {getattr(wanted, name)}" for name in bad)
        raise RecipeError(f"{loaded.name} is another architecture than the student's", why=told)
    return Beginning(loaded.model, wanted.arch, loaded.name, "frozen", own)


def _with_teacher(
    teacher: VisionTransformer, config: ViTConfig, blocks: Sequence[int], side: int, seed: int
) -> Beginning:
    """A student that begins with the teacher's weights; `config.grid` is that of the training size."""
    alike = config.positions == teacher.config.positions
    known = alike and config.positions == "learned"  # as the teacher has them, at its own grid
    if known:
        config = replace(config, grid=teacher.config.grid, interpolation=teacher.config.interpolation)
    model = _from_teacher(teacher, config, blocks, seed)
    # blocks learn one by one where the streams have the same tokens, and positions come in at the same place
    alone = alike and config.registers == teacher.config.registers
    segments = segments_of(blocks, teacher.config.depth) if alone else ()
    init = f"blocks {', '.join(map(str, blocks))} of the teacher"
    return Beginning(model, config.arch, init, "frozen" if known else "learned", side, segments)


def segments_of(blocks: Sequence[int], of: int) -> tuple[Segment, ...]:
    """Teacher segments of a student's blocks: from its teacher's block up to the next one's, () if not in order.

    The first begins at the image, the last ends at the teacher's end: blocks 0, 2, 4 of 6 do (0, 2), (2, 4), (4, 6).
    """
    bounds = [0, *blocks[1:], of]
    rising = all(a < b for a, b in pairwise(bounds))
    return tuple(pairwise(bounds)) if rising else ()


def _refuse_other_pixels(student: ViTConfig, teacher: ViTConfig) -> None:
    """Teacher and student look at the same ImageNet-normalised pixels."""
    for config in (teacher, student):
        if config.normalization != "imagenet":
            raise RecipeError(
                f"{config.arch} is of pixels with {config.normalization} statistics",
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


def _config(spec: StudentSpec, teacher: ViTConfig) -> ViTConfig:
    base = zoo.find(known_arch(spec.arch)).config if spec.arch else teacher
    given = {
        name: value
        for name in ("depth", "width", "heads", "registers", "ffn", "hidden", "patch", "positions")
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
    """A student with the teacher's weights: what has no place in it is left out, what the teacher lacks is random.

    Patches of another size get a resampled kernel. Where rotary positions replace learned ones, the class token and the
    patches take their mean position along, and each attention head turns first what its scores depend on least.
    """
    # The demo ViT-S/14 as a ViT-S/16 of 8 x 8 patches, cosines of class token and patches before any training: 0.997,
    # 0.996 with the kernel alone; 0.973, 0.963 when turned as well; 0.77, 0.72 without its learned positions, and 0.09,
    # 0.23 less in the teacher's own basis of queries and keys.
    student = _random(VisionTransformer(config), seed)
    own, state = student.state_dict(), teacher.state_dict()
    state["patch_embed.proj.weight"] = resampled_kernel(state["patch_embed.proj.weight"], config.patch)
    if config.positions == "rope" and "pos_embed" in state:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["patch_embed.proj.bias"] = state["patch_embed.proj.bias"] + state["pos_embed"][0, 1:].mean(0)
    for name, value in state.items():
        if not name.startswith("blocks.") and name in own and own[name].shape == value.shape:  # registers may differ
            own[name].copy_(value)
    for index, block in enumerate(blocks):
        student.blocks[index].load_state_dict(teacher.blocks[block].state_dict())
        if config.positions == "rope" and teacher.config.positions != "rope":
            order_for_rotation(student.blocks[index].attn, student.blocks[index].norm1)
    return student


def resampled_kernel(weight: Tensor, patch: int) -> Tensor:
    """A patch embedding's kernel (D, 3, p, p) for patches of another size, which gives enlarged patches the same token.

    The pseudo-inverse of the bicubic enlargement, transposed (Beyer et al. 2022, FlexiViT, arXiv 2212.08013, eq. 3).
    """
    old = weight.shape[-1]
    if old == patch:
        return weight
    pictures = torch.eye(old * old, dtype=torch.float64).reshape(-1, 1, old, old)
    resize = F.interpolate(pictures, size=(patch, patch), mode="bicubic", antialias=patch < old)
    kernel = weight.double().flatten(2) @ torch.linalg.pinv(resize.flatten(1)).T  # (D, 3, p²) @ (p², new p²)
    return kernel.reshape(*weight.shape[:2], patch, patch).to(weight.dtype)


@torch.no_grad()
def order_for_rotation(attention: Attention, norm: nn.LayerNorm) -> None:
    """Change the basis of each attention head's queries and keys, in place, so that little is lost by turning them.

    Without a rotation the scores stay as they are: queries are multiplied by A and keys by the inverse of its
    transpose. A makes the channels of both uncorrelated and equally large (balanced coordinates), for normalised inputs
    that are independent; those that carry most of the scores' variance come to the pairs that turn slowest. The keys'
    bias, which moves all scores of a query alike, goes: rotary models have none.

    Args:
        attention: of a model with learned positions, not turned yet.
        norm: the LayerNorm before it.
    """
    width, heads = attention.qkv.in_features, attention.heads
    weight = attention.qkv.weight.double().reshape(3, heads, -1, width)
    bias = attention.qkv.bias.double().reshape(3, heads, -1)
    bias[1] = 0
    gain, shift = norm.weight.double(), norm.bias.double()
    places = torch.from_numpy(slowest_first(weight.shape[2]))
    for head in range(heads):
        seen = [
            torch.cat([weight[part, head] * gain, (weight[part, head] @ shift + bias[part, head])[:, None]], dim=1)
            for part in (0, 1)
        ]
        to_query, to_key = balanced_basis(*seen)
        weight[0, head, places] = to_query @ weight[0, head]
        bias[0, head, places] = to_query @ bias[0, head]
        weight[1, head, places] = to_key @ weight[1, head]
    attention.qkv.weight.copy_(weight.reshape(3 * width, width))
    attention.qkv.bias.copy_(bias.flatten())


def balanced_basis(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (d, d) of queries and keys, one the inverse transpose of the other, to balanced coordinates.

    Both then have the same diagonal matrix of second moments, largest first (as Moore 1981 balances linear systems).

    Args:
        query: (d, n) float64, the projection of n independent inputs of unit variance.
        key: likewise.
    """
    factors = []
    for weight in (query, key):
        moments = weight @ weight.T
        ridge = _RIDGE * moments.diagonal().mean() * torch.eye(len(weight), dtype=weight.dtype)
        factors.append(torch.linalg.cholesky(moments + ridge))
    left, singular, right = torch.linalg.svd(factors[0].T @ factors[1])
    scale = singular.rsqrt()[:, None]
    return scale * (right @ factors[1].T), scale * (left.T @ factors[0].T)


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
