"""The architecture of a DINOv2 model as data: what fixes a checkpoint's shapes, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
