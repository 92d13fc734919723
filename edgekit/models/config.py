"""The architecture of a DINOv2 model as data: what fixes a checkpoint's shapes, readable without torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

Interpolation = Literal["offset", "antialias", "size"]
Ffn = Literal["mlp", "swiglu"]


@dataclass(frozen=True)
class DinoV2Config:
    """Everything that fixes the architecture.

    `interpolation` names one of three ways in which position embeddings are resized in the field: "offset" (official
    plain models: scale factor with 0.1 added, no antialias), "antialias" (official register models: target size, with
    antialias), "size" (Hugging Face's Dinov2Model: target size, no antialias). `grid` is the (rows, columns) of
    patches that the stored position embedding covers: 37x37 in the official checkpoints, the image's own once baked.
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
    def parameters(self) -> int:
        """Number of parameters, mask token included: four times as many bytes in float32."""
        d, f = self.width, self.ffn_hidden
        tokens = (2 + 1 + self.grid[0] * self.grid[1] + self.registers) * d  # CLS, mask, positions, registers
        patches = (3 * self.patch**2 + 1) * d
        attention = (d + 1) * 3 * d + (d + 1) * d
        feed_forward = (d + 1) * f * (1 if self.ffn == "mlp" else 2) + (f + 1) * d
        norms_and_scales = 4 * d + 2 * d
        return tokens + patches + self.depth * (attention + feed_forward + norms_and_scales) + 2 * d

    def tokens(self, height: int, width: int) -> int:
        """Sequence length N = 1 + R + patches for an image of that many pixels."""
        return 1 + self.registers + (height // self.patch) * (width // self.patch)


_SIZES: tuple[tuple[str, int, int, int, Ffn], ...] = (  # name, width, depth, heads, feed-forward
    ("vits14", 384, 12, 6, "mlp"),
    ("vitb14", 768, 12, 12, "mlp"),
    ("vitl14", 1024, 24, 16, "mlp"),
    ("vitg14", 1536, 40, 24, "swiglu"),
)

ARCHITECTURES: dict[str, DinoV2Config] = {
    config.arch: config
    for name, width, depth, heads, ffn in _SIZES
    for config in (
        DinoV2Config(f"dinov2_{name}", width, depth, heads, ffn, interpolation="offset"),
        DinoV2Config(f"dinov2_{name}_reg", width, depth, heads, ffn, registers=4, interpolation="antialias"),
    )
}

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
_FIELDS = fields(DinoV2Config)


def config_of(values: Mapping[str, Any]) -> DinoV2Config:
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
    config = DinoV2Config(**dict(found))
    require_possible(config)
    return config


@cache
def _typed() -> type[BaseModel]:
    """The fields of `DinoV2Config` as a pydantic model, which takes no text for a number and no unknown field."""
    hints = get_type_hints(DinoV2Config)
    given: dict[str, Any] = {f.name: (hints[f.name], ... if f.default is MISSING else f.default) for f in _FIELDS}
    return create_model("Config", __config__=ConfigDict(extra="forbid", strict=True), **given)


def require_possible(config: DinoV2Config) -> None:
    """Raises ValueError where a number is none that a model can have, before anything of that size is made."""
    for name, most in _MOST.items():
        value = getattr(config, name)
        if not (0 if name in _MAY_BE_ZERO else 1) <= value <= most:
            raise ValueError(f"{name} = {str(value)[:60]}: a model has at most {most}")
    if config.width % config.heads:
        raise ValueError(f"heads = {config.heads}: they do not divide the width, {config.width}")
    if len(config.grid) != 2 or not all(1 <= side <= _MOST_ROWS for side in config.grid):
        raise ValueError(f"grid = {str(config.grid)[:60]}: wanted are two numbers of patches, at most {_MOST_ROWS}")
    if not (math.isfinite(config.norm_eps) and 0 < config.norm_eps < 1):
        raise ValueError(f"norm_eps = {config.norm_eps}: wanted is a number between 0 and 1")
    if not _NAME.fullmatch(config.arch):
        raise ValueError(f"arch = {config.arch[:60]!r}: a name has letters, digits and . _ - only")
