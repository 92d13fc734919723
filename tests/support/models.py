"""What tests are made of: models whose function is known exactly, tiny, wide or full of outliers, and photographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from edgekit.models.vit import ARCHITECTURES, SwiGluFfn, VisionTransformer, ViTConfig

TINY = ViTConfig("tiny", width=128, depth=2, heads=2, grid=(5, 5), interpolation="offset")
TINY_REG = replace(TINY, arch="tiny_reg", registers=4, interpolation="antialias")
TINY_SWIGLU = replace(TINY_REG, arch="tiny_swiglu_reg", ffn="swiglu")
TINY_ROPE = ViTConfig(
    "tiny_rope", width=128, depth=2, heads=2, registers=4, patch=16, grid=(4, 4), norm_eps=1e-5, positions="rope"
)
TINY_ROPE_SWIGLU = replace(TINY_ROPE, arch="tiny_rope_swiglu", ffn="swiglu", hidden=256)


@torch.no_grad()
def duplicate_width(model: VisionTransformer, seed: int = 0) -> VisionTransformer:
    """Twice the width, heads and hidden units, the same function: a ViT-S becomes a ViT-B whose outputs are (y, y).

    Every token is (x, x): LayerNorm sees the same mean and variance, so its output is doubled as well. A linear layer
    repeats its rows and splits each weight w over the two equal inputs as a*w and (1-a)*w; a is drawn in 1/4 .. 3/4,
    since halves would make two equal quantization problems of one. Heads keep 64 channels, hence their scale.
    """
    generator = torch.Generator().manual_seed(seed)
    config = replace(model.config, width=2 * model.config.width, heads=2 * model.config.heads)
    config = replace(config, hidden=2 * model.config.ffn_hidden)
    for arch, known in ARCHITECTURES.items():
        if replace(config, arch="", hidden=0, interpolation="size") == replace(known, arch="", interpolation="size"):
            config = replace(config, arch=arch, hidden=0)
    wide = VisionTransformer(config)

    def rows(value: Tensor, groups: int = 1) -> Tensor:
        """Repeat along the first axis, within each of `groups` equal parts (q, k and v stay apart)."""
        return torch.cat([part.repeat(2, *[1] * (value.ndim - 1)) for part in value.chunk(groups)])

    def linear(new: nn.Linear, old: nn.Linear, groups: int = 1) -> None:
        weight = rows(old.weight, groups)
        share = 0.25 + 0.5 * torch.rand(weight.shape, generator=generator)
        new.weight.copy_(torch.cat((share * weight, weight - share * weight), dim=1))
        new.bias.copy_(rows(old.bias, groups))

    def vectors(new: nn.Module, old: nn.Module) -> None:
        for mine, theirs in zip(new.parameters(), old.parameters(), strict=True):
            mine.copy_(rows(theirs))

    for name in ("cls_token", "pos_embed", "mask_token", *(["register_tokens"] if config.registers else [])):
        getattr(wide, name).copy_(getattr(model, name).tile(2))
    vectors(wide.patch_embed, model.patch_embed)
    vectors(wide.norm, model.norm)
    for new, old in zip(wide.blocks, model.blocks, strict=True):
        for name in ("norm1", "ls1", "norm2", "ls2"):
            vectors(getattr(new, name), getattr(old, name))
        linear(new.attn.qkv, old.attn.qkv, groups=3)
        linear(new.attn.proj, old.attn.proj)
        if isinstance(new.mlp, SwiGluFfn):
            linear(new.mlp.w12, old.mlp.w12, groups=2)
            linear(new.mlp.w3, old.mlp.w3)
        else:
            linear(new.mlp.fc1, old.mlp.fc1)
            linear(new.mlp.fc2, old.mlp.fc2)
    return wide.eval()


@torch.no_grad()
def inject_outliers(
    model: VisionTransformer,
    *,
    norm_gain: float = 50.0,
    norm_channels: int = 4,
    hidden_gain: float = 300.0,
    seed: int = 0,
) -> VisionTransformer:
    """The same function with activations that ruin a per-tensor quantizer, as large DINOv2 models have them.

    LayerNorm outputs: in each norm `norm_channels` channels are scaled by `norm_gain`, the next linear undoes it.
    Inputs of the second MLP layer: 16 hidden units are added to each block. gelu(z) - gelu(-z) = z holds exactly, so
    two units (s*z, -s*z) written out with (v/s, -v/s) add z*v whatever s; a second such pair with another s takes it
    away again. With s = `hidden_gain` the units reach hundreds where others reach ten. In a SwiGLU the linear half of
    two channels is scaled and the output weight undoes it.
    """
    generator = torch.Generator().manual_seed(seed)
    swiglu = model.config.ffn == "swiglu"
    config = model.config if swiglu else replace(model.config, hidden=model.config.ffn_hidden + 16)
    stressed = VisionTransformer(config)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for i in range(config.depth):
        first, second = ("w12", "w3") if swiglu else ("fc1", "fc2")
        for norm, linear in (("norm1", "attn.qkv"), ("norm2", f"mlp.{first}")):
            channels = torch.randperm(config.width, generator=generator)[:norm_channels]
            state[f"blocks.{i}.{norm}.weight"][channels] *= norm_gain
            state[f"blocks.{i}.{norm}.bias"][channels] *= norm_gain
            state[f"blocks.{i}.{linear}.weight"][:, channels] /= norm_gain
        w1, b1 = (state[f"blocks.{i}.mlp.{first}.{kind}"] for kind in ("weight", "bias"))
        w2 = state[f"blocks.{i}.mlp.{second}.weight"]
        if swiglu:
            channels = torch.randperm(config.ffn_hidden, generator=generator)[:2]
            w1[config.ffn_hidden + channels] *= hidden_gain
            b1[config.ffn_hidden + channels] *= hidden_gain
            w2[:, channels] /= hidden_gain
            continue
        # z reads directions that the layer itself reads, at its own strength, so that it is as large on real tokens
        units = torch.randperm(model.config.ffn_hidden, generator=generator)[:4]
        gains = [sign * gain for gain in (hidden_gain, hidden_gain / 3) for sign in (1.0, -1.0)]
        signs = [1.0, -1.0, -1.0, 1.0]
        state[f"blocks.{i}.mlp.{first}.weight"] = torch.cat([w1, *(g * w1[units] for g in gains)])
        state[f"blocks.{i}.mlp.{first}.bias"] = torch.cat([b1, *(g * b1[units] for g in gains)])
        written = [sign * w2[:, units] / abs(g) for sign, g in zip(signs, gains, strict=True)]
        state[f"blocks.{i}.mlp.{second}.weight"] = torch.cat([w2, *written], dim=1)
    stressed.load_state_dict(state)
    return stressed.eval()


def photographs(folder: Path, count: int, seed: int = 0) -> None:
    """Smooth coloured PNG files of several sizes, all different."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), np.uint8))
        size = int(generator.integers(60, 120)), int(generator.integers(60, 120))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")
