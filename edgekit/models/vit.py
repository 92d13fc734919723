"""The reference vision transformer of DINOv2 and DINOv3 in torch, with DINOv2's keys and the official arithmetic.

Source of the architecture: facebookresearch/dinov2 (Oquab et al. 2023, arXiv 2304.07193; registers: Darcet et al. 2023,
arXiv 2309.16588) and facebookresearch/dinov3 (Siméoni et al. 2025, arXiv 2508.10104). Shapes: B batch,
N tokens (1 + R registers + patches), D width, H heads, F hidden width of the MLP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.models.config import ARCHITECTURES, Interpolation, Periods, ViTConfig
from edgekit.models.rope import rotation_of

__all__ = ["ARCHITECTURES", "Interpolation", "ViTConfig", "VisionTransformer", "random_model"]


class PatchEmbed(nn.Module):
    """Image to patch tokens by one unpadded convolution whose kernel and stride are a patch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, patches, D)


class LayerScale(nn.Module):
    """Learned gain per channel on a branch before it joins the residual stream (Touvron et al. 2021)."""

    def __init__(self, width: int, init: float = 1e-5) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Rotation(nn.Module):
    """Turns queries and keys by the place of their patch (see `edgekit.models.rope`); shared by all blocks."""

    cos: Tensor  # (N, D/H)
    sin: Tensor

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self._tables()

    def _tables(self) -> None:
        for name, table in zip(("cos", "sin"), rotation_of(self.config), strict=True):
            self.register_buffer(name, torch.from_numpy(table), persistent=False)

    def fit(self, grid: tuple[int, int]) -> None:
        """Take the tables of another grid of patches."""
        if grid != self.config.grid:
            device = self.cos.device
            self.config = replace(self.config, grid=grid)
            self._tables()
            self.to(device)

    def take_periods(self, exact: Periods) -> None:
        """Make the tables of other periods, see `ViTConfig.rope_periods`."""
        self.config = replace(self.config, rope_periods=exact)
        self._tables()

    def forward(self, x: Tensor) -> Tensor:
        """Queries or keys (B, H, N, D/H), turned by their positions."""
        return x * self.cos + x.roll(x.shape[-1] // 2, -1) * self.sin


class Attention(nn.Module):
    """Multi-head self-attention with one packed qkv projection; `scale` becomes 1 once folded into the queries.

    `key_centre` (D,) is set by the rewrite `edgekit.surgery.centre_turned_keys` and taken off the turned keys.
    """

    def __init__(self, config: ViTConfig, rotation: Rotation | None = None) -> None:
        super().__init__()
        self.rotation = rotation
        self.key_centre: nn.Parameter | None = None
        self.heads = config.heads
        self.scale = config.head_dim**-0.5
        self.products: nn.Module | None = None  # replaces the two float products when a simulator sets it
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def split_heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Packed projection (B, N, 3*D) as q, k, v of (B, H, N, D/H) each; q and k turned by their positions."""
        b, n, packed = qkv.shape
        q, k, v = qkv.reshape(b, n, 3, self.heads, packed // 3 // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotation is not None:
            q, k = self.rotation(q), self.rotation(k)
        if self.key_centre is not None:
            k = k - self.key_centre.reshape(self.heads, 1, -1)
        return q, k, v

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """softmax(q k^T * scale) v with the heads joined again: (B, N, D)."""
        if self.products is not None:
            return self.products(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale).transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.mix(*self.split_heads(self.qkv(x))))


class Mlp(nn.Module):
    """fc1 -> GELU -> fc2; `fc2_gain` (F,) is set by the smoothing rewrite and multiplies the GELU output."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.ffn_hidden)
        self.fc2 = nn.Linear(config.ffn_hidden, config.width)
        self.fc2_gain: nn.Parameter | None = None

    def hidden(self, x: Tensor) -> Tensor:
        """Input of fc2: (B, N, F)."""
        h = F.gelu(self.fc1(x))
        return h if self.fc2_gain is None else h * self.fc2_gain

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.hidden(x))


class SwiGluFfn(nn.Module):
    """w3(silu(a) * b) with a, b the halves of w12, as in the official giant model."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.w12 = nn.Linear(config.width, 2 * config.ffn_hidden)
        self.w3 = nn.Linear(config.ffn_hidden, config.width)

    def hidden(self, x: Tensor) -> Tensor:
        """Input of w3: (B, N, F)."""
        a, b = self.w12(x).chunk(2, dim=-1)
        return F.silu(a) * b

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.hidden(x))


class Block(nn.Module):
    """Pre-norm transformer block with LayerScale on both branches (nn.Identity once folded)."""

    def __init__(self, config: ViTConfig, rotation: Rotation | None = None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config, rotation)
        self.ls1: nn.Module = LayerScale(config.width)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp: Mlp | SwiGluFfn = Mlp(config) if config.ffn == "mlp" else SwiGluFfn(config)
        self.ls2: nn.Module = LayerScale(config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """A backbone of any family, with DINOv2's state-dict keys: official DINOv2 checkpoints load with `strict=True`."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.rotation: Rotation | None = None
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, 1 + math.prod(config.grid), config.width))
        else:
            self.rotation = Rotation(config)
        if config.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, config.width))
        self.mask_token = nn.Parameter(torch.zeros(1, config.width))
        self.patch_embed = PatchEmbed(config)
        self.blocks: Sequence[Block] = nn.ModuleList(Block(config, self.rotation) for _ in range(config.depth))  # type: ignore[assignment]
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.unrotate: nn.Parameter | None = None  # (D, D), set by the rotation rewrite, applied before the final norm

    def take_periods(self, exact: Periods) -> None:
        """Use other periods of rotary positions than the checkpoint's."""
        assert self.rotation is not None
        self.config = replace(self.config, rope_periods=exact)
        self.rotation.take_periods(exact)

    def position_embedding(self, height: int, width: int) -> Tensor:
        """Position embedding (1, 1 + patches, D) resized to an image of that many pixels (bicubic, float32)."""
        return resized_positions(self.pos_embed, self.config, (height // self.config.patch, width // self.config.patch))

    @torch.no_grad()
    def bake(self, height: int, width: int) -> VisionTransformer:
        """A copy for one image size: positions (embedding or rotation) are made once, here and never in the graph.

        Raises:
            RecipeError: a side is not a positive multiple of the patch size.
        """
        grid = self.config.grid_of(height, width)
        baked = deepcopy(self)
        baked.config = replace(self.config, grid=grid)
        if baked.rotation is None:
            baked.pos_embed = nn.Parameter(self.position_embedding(height, width).clone())
        else:
            baked.rotation.fit(grid)
        return baked.eval()

    def embed(self, x: Tensor) -> Tensor:
        """Tokens (B, N, D) of normalised pixels (B, 3, height, width): CLS, registers, patches."""
        height, width = x.shape[-2:]
        tokens = self.patch_embed(x)
        if self.rotation is not None:
            self.rotation.fit(self.config.grid_of(height, width))
            prefix = [self.cls_token, *([self.register_tokens] if self.config.registers else [])]
            return torch.cat((*(part.expand(len(x), -1, -1) for part in prefix), tokens), dim=1)
        tokens = torch.cat((self.cls_token.expand(len(x), -1, -1), tokens), dim=1)
        tokens = tokens + self.position_embedding(height, width)
        if self.config.registers:  # registers carry no position
            registers = self.register_tokens.expand(len(x), -1, -1)
            tokens = torch.cat((tokens[:, :1], registers, tokens[:, 1:]), dim=1)
        return tokens

    def finish(self, x: Tensor) -> Tensor:
        """Final norm over the last block's output (B, N, D)."""
        return self.norm(x if self.unrotate is None else x @ self.unrotate)

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        """Features under the official names; `x_prenorm` is the residual stream before the final norm."""
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        normed = self.finish(tokens)
        first_patch = self.config.prefix
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:first_patch],
            "x_norm_patchtokens": normed[:, first_patch:],
            "x_prenorm": tokens if self.unrotate is None else tokens @ self.unrotate,
        }

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The export contract: (`last_hidden_state` (B, N, D), `pooler_output` (B, D))."""
        tokens = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        hidden = self.finish(tokens)
        return hidden, hidden[:, 0]


def resized_positions(table: Tensor, config: ViTConfig, grid: tuple[int, int]) -> Tensor:
    """A table of positions (1, 1 + patches, D) of `config.grid`, resized to other (rows, columns) of patches."""
    (rows, columns), (old_rows, old_columns) = grid, config.grid
    if (rows, columns) == (old_rows, old_columns):
        return table
    image = table[:, 1:].float().reshape(1, old_rows, old_columns, -1).permute(0, 3, 1, 2)
    if config.interpolation == "offset":  # the official +0.1 keeps torch from rounding the size down
        factors = ((rows + 0.1) / old_rows, (columns + 0.1) / old_columns)
        image = F.interpolate(image, scale_factor=factors, mode="bicubic", antialias=False)
    else:
        antialias = config.interpolation == "antialias"
        image = F.interpolate(image, size=(rows, columns), mode="bicubic", antialias=antialias)
    assert image.shape[-2:] == (rows, columns)
    patches = image.permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat((table[:, :1], patches.to(table.dtype)), dim=1)


def random_model(config: ViTConfig, seed: int = 0) -> VisionTransformer:
    """A model with seeded random weights and LayerScale of order one, so that every part of it matters in a test."""
    generator = torch.Generator().manual_seed(seed)
    model = VisionTransformer(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim >= 2 and "token" not in name and "pos_embed" not in name:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_(0.1 * noise)
    return model
