"""The architecture of a vision transformer as data: what fixes a checkpoint's shapes, readable without torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from edgekit.artifact import IMAGENET_MEAN, IMAGENET_STD, SATELLITE_MEAN, SATELLITE_STD, Normalize, Preprocess
from edgekit.errors import RecipeError

Interpolation = Literal["offset", "antialias", "size"]
Positions = Literal["learned", "rope"]
Periods = Literal["float32", "bfloat16"]
Normalization = Literal["imagenet", "satellite", "unit"]
Ffn = Literal["mlp", "swiglu"]
STATISTICS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "satellite": (SATELLITE_MEAN, SATELLITE_STD),
    "unit": ((0.0,) * 3, (1.0,) * 3),
}


@dataclass(frozen=True)
class ViTConfig:
    """Everything that fixes the architecture.

    `interpolation` names one of three ways in which learned position embeddings are resized in the field: "offset"
    (official plain DINOv2: scale factor with 0.1 added, no antialias), "antialias" (official register models, and timm
    for all: target size, with antialias), "size" (Hugging Face's Dinov2Model: target size, no antialias). `grid` is the
    (rows, columns) of patches that the stored position embedding covers: 37x37 in the official checkpoints, the image's
    own once baked.

    With `positions` "rope" nothing is added to the patches; queries and keys are rotated by their patch's place instead
    (see `edgekit.models.rope`). `rope_periods` says how exact the periods are: "float32" as Hugging Face and timm
    compute them, "bfloat16" rounded to it as Meta's files store them.
    """

    arch: str
    width: int
    depth: int
    heads: int
    ffn: Ffn = "mlp"
    hidden: int = 0  # 0: 4 * width for an MLP; the official 8/3 * width rounded up to 8 for SwiGLU
    registers: int = 0
    patch: int = 14
    grid: tuple[int, int] = (37, 37)
    interpolation: Interpolation = "offset"
    norm_eps: float = 1e-6  # of every LayerNorm
    positions: Positions = "learned"
    rope_base: float = 100.0  # ratio of the longest to the shortest period, nearly
    rope_periods: Periods = "float32"
    normalization: Normalization = "imagenet"  # of the pixels it was trained on; "unit": 0 to 1 as they are

    @property
    def ffn_hidden(self) -> int:
        """Width F behind the first linear (for SwiGLU of each of its two halves)."""
        if self.hidden:
            return self.hidden
        return 4 * self.width if self.ffn == "mlp" else (int(4 * self.width * 2 / 3) + 7) // 8 * 8

    @property
    def head_dim(self) -> int:
        """Channels per attention head (64 in every official model)."""
        return self.width // self.heads

    @property
    def prefix(self) -> int:
        """Tokens in front of the patches: the class token and the registers."""
        return 1 + self.registers

    @property
    def parameters(self) -> int:
        """Number of parameters, mask token included: four times as many bytes in float32."""
        d, f = self.width, self.ffn_hidden
        positions = 1 + self.grid[0] * self.grid[1] if self.positions == "learned" else 0
        tokens = (2 + positions + self.registers) * d  # CLS, mask, positions, registers
        patches = (3 * self.patch**2 + 1) * d
        attention = (d + 1) * 3 * d + (d + 1) * d
        feed_forward = (d + 1) * f * (1 if self.ffn == "mlp" else 2) + (f + 1) * d
        norms_and_scales = 4 * d + 2 * d
        return tokens + patches + self.depth * (attention + feed_forward + norms_and_scales) + 2 * d

    def tokens(self, height: int, width: int) -> int:
        """Sequence length N = 1 + R + patches for an image of that many pixels."""
        return self.prefix + (height // self.patch) * (width // self.patch)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Patches of an image of that many pixels as (rows, columns).

        Raises:
            RecipeError: a side is not a positive multiple of the patch size; names the nearest size that is.
        """
        return grid_of(height, width, self.patch)

    def preprocess(
        self, height: int, width: int, *, normalize: Normalize = "host", sides: tuple[int, int] | None = None
    ) -> Preprocess:
        """The preprocessing that makes images an input of that many pixels; `sides` as `Preprocess` has them.

        Raises:
            RecipeError: a side is not a positive multiple of the patch size; names the nearest size that is.
        """
        self.grid_of(height, width)
        mean, std = STATISTICS[self.normalization]
        transform = Preprocess.for_size(height, width, normalize=normalize)
        return transform.model_copy(update={"mean": mean, "std": std, "patch": self.patch, "sides": sides})


def family_of_config(config: ViTConfig) -> str:
    """ "DINOv3", "DINOv2 with registers" or "DINOv2"."""
    if config.positions == "rope":
        return "DINOv3"
    return "DINOv2 with registers" if config.registers else "DINOv2"


def grid_of(height: int, width: int, patch: int) -> tuple[int, int]:
    """Patches of an image of that many pixels as (rows, columns).

    Raises:
        RecipeError: a side is not a positive multiple of `patch`; names the nearest size that is.
    """
    if min(height, width) <= 0 or height % patch or width % patch:
        near = [max(patch, round(side / patch) * patch) for side in (height, width)]
        raise RecipeError(
            f"image size {height}x{width} is not a positive multiple of {patch}",
            why=f"the model cuts images into patches of {patch}x{patch} pixels",
            fix=f"--image-size {near[0]}" + (f"x{near[1]}" if near[0] != near[1] else ""),
        )
    return height // patch, width // patch


_DINOV2: tuple[tuple[str, int, int, int, Ffn], ...] = (  # name, width, depth, heads, feed-forward
    ("vits14", 384, 12, 6, "mlp"),
    ("vitb14", 768, 12, 12, "mlp"),
    ("vitl14", 1024, 24, 16, "mlp"),
    ("vitg14", 1536, 40, 24, "swiglu"),
)

# Source: facebookresearch/dinov3, dinov3/hub/backbones.py: patches of 16, 4 registers, LayerNorm of epsilon 1e-5.
_DINOV3: tuple[tuple[str, int, int, int, Ffn], ...] = (
    ("vits16", 384, 12, 6, "mlp"),
    ("vits16plus", 384, 12, 6, "swiglu"),
    ("vitb16", 768, 12, 12, "mlp"),
    ("vitl16", 1024, 24, 16, "mlp"),
    ("vitl16plus", 1024, 24, 16, "swiglu"),
    ("vith16plus", 1280, 32, 20, "swiglu"),
)


def _dinov3(name: str, width: int, depth: int, heads: int, ffn: Ffn) -> ViTConfig:
    """A distilled DINOv3; `grid` is that of 224 pixels and says nothing, since no table of positions is stored."""
    hidden = 4 * width if ffn == "swiglu" else 0  # of each half: ratio 6 * 2/3
    return ViTConfig(
        f"dinov3_{name}",
        width,
        depth,
        heads,
        ffn,
        hidden,
        registers=4,
        patch=16,
        grid=(14, 14),
        norm_eps=1e-5,
        positions="rope",
    )


ARCHITECTURES: dict[str, ViTConfig] = {
    config.arch: config
    for name, width, depth, heads, ffn in _DINOV2
    for config in (
        ViTConfig(f"dinov2_{name}", width, depth, heads, ffn, interpolation="offset"),
        ViTConfig(f"dinov2_{name}_reg", width, depth, heads, ffn, registers=4, interpolation="antialias"),
    )
} | {config.arch: config for config in (_dinov3(*size) for size in _DINOV3)}

_MOST = {  # of what any file may claim: the largest official model has 1536 channels, 40 blocks and 4 registers
    "width": 16_384,
    "depth": 200,
    "heads": 1024,
    "hidden": 131_072,
    "registers": 4096,
    "patch": 128,
}
_MAY_BE_ZERO = ("hidden", "registers")
_MOST_ROWS = 1024  # of a grid of patches: images of 14336 pixels
_NAME = re.compile(r"[A-Za-z0-9_.+-]{0,100}")  # "" of one that is not known yet
_FIELDS = fields(ViTConfig)


def config_of(values: Mapping[str, Any]) -> ViTConfig:
    """The architecture that a file describes: each field of its own type, and within what a model can have.

    Raises:
        ValueError: a field is missing, unknown, of another type or impossible; the message names it with its value.
    """
    try:
        found = _typed().model_validate_json(json.dumps(dict(values)))  # of JSON, where a tuple is a list
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the config"
        shown = "" if first["type"] == "missing" else f" = {str(first['input'])[:60]!r}"
        raise ValueError(f"{where}{shown}: {first['msg']}") from None
    config = ViTConfig(**dict(found))
    require_possible(config)
    return config


@cache
def _typed() -> type[BaseModel]:
    """The fields of `ViTConfig` as a pydantic model, which takes no text for a number and no unknown field."""
    hints = get_type_hints(ViTConfig)
    given: dict[str, Any] = {f.name: (hints[f.name], ... if f.default is MISSING else f.default) for f in _FIELDS}
    return create_model("Config", __config__=ConfigDict(extra="forbid", strict=True), **given)


def require_possible(config: ViTConfig) -> None:
    """Raises ValueError where a number is none that a model can have, before anything of that size is made."""
    for name, most in _MOST.items():
        value = getattr(config, name)
        if not (0 if name in _MAY_BE_ZERO else 1) <= value <= most:
            raise ValueError(f"{name} = {str(value)[:60]}: a model has at most {most}")
    if config.width % config.heads:
        raise ValueError(f"heads = {config.heads}: they do not divide the width, {config.width}")
    if len(config.grid) != 2 or not all(1 <= side <= _MOST_ROWS for side in config.grid):
        raise ValueError(f"grid = {str(config.grid)[:60]}: wanted are two numbers of patches, at most {_MOST_ROWS}")
    if config.head_dim % 4 and config.positions == "rope":
        raise ValueError(f"heads = {config.heads}: rotary positions need heads of a multiple of 4 channels")
    if not (math.isfinite(config.rope_base) and config.rope_base > 1):
        raise ValueError(f"rope_base = {config.rope_base}: wanted is a number above 1")
    if not (math.isfinite(config.norm_eps) and 0 < config.norm_eps < 1):
        raise ValueError(f"norm_eps = {config.norm_eps}: wanted is a number between 0 and 1")
    if not _NAME.fullmatch(config.arch):
        raise ValueError(f"arch = {config.arch[:60]!r}: a name has letters, digits and . _ - only")
