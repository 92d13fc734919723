"""Heads as torch modules with the parameter names of facebookresearch/dinov2's checkpoints, for tests to compare with.

Each is called with a baked backbone and its pixels. Shapes: B batch, D width, P patches on a grid (rows, columns).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.graph.heads import Head
from edgekit.heads.classification import LinearClassifier, NearestNeighbours
from edgekit.heads.depth import LinearDepth
from edgekit.heads.dpt import DptDepth
from edgekit.heads.saliency import SaliencyHead, SaliencyProgram
from edgekit.heads.segmentation import LinearSegmenter
from edgekit.models.vit import VisionTransformer, ViTConfig


def layers_of(
    model: VisionTransformer, pixels: Tensor, indices: list[int], *, normed: bool
) -> list[tuple[Tensor, Tensor]]:
    """(patch tokens (B, P, D), class token (B, D)) behind each block named."""
    x, found = model.embed(pixels), []
    for i, block in enumerate(model.blocks):
        x = block(x)
        if i in indices:
            tokens = model.finish(x) if normed else x
            found.append((tokens[:, 1 + model.config.registers :], tokens[:, 0]))
    return found


def as_map(patches: Tensor, model: VisionTransformer) -> Tensor:
    """(B, P, D) -> (B, D, rows, columns)."""
    return patches.transpose(1, 2).reshape(len(patches), -1, *model.config.grid)


class Classifier(nn.Linear):
    """The linear classifier over the class tokens of `layers` blocks and the last one's mean patch token."""

    def __init__(self, width: int, layers: int, classes: int) -> None:
        super().__init__((layers + 1) * width, classes)
        self.layers = layers

    def run(self, model: VisionTransformer, pixels: Tensor) -> Tensor:
        depth = model.config.depth
        taken = layers_of(model, pixels, list(range(depth - self.layers, depth)), normed=True)
        return self(torch.cat([*(cls for _, cls in taken), taken[-1][0].mean(1)], dim=-1))


class Segmenter(nn.Module):
    """BNHead of segmentation over the last `layers` blocks."""

    def __init__(self, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.layers = layers
        self.bn = nn.BatchNorm2d(layers * width)
        self.conv_seg = nn.Conv2d(layers * width, classes, 1)

    def run(self, model: VisionTransformer, pixels: Tensor) -> Tensor:
        depth = model.config.depth
        taken = layers_of(model, pixels, list(range(depth - self.layers, depth)), normed=True)
        return self.conv_seg(self.bn(torch.cat([as_map(patches, model) for patches, _ in taken], dim=1)))


class LinearDepther(nn.Module):
    """BNHead of depth over the given blocks: bins, uniform, "linear" normalisation, features enlarged four times."""

    def __init__(self, width: int, indices: list[int], bins: int, max_depth: float) -> None:
        super().__init__()
        self.indices, self.max_depth = indices, max_depth
        self.conv_depth = nn.Conv2d(2 * len(indices) * width, bins, 1)

    def run(self, model: VisionTransformer, pixels: Tensor) -> Tensor:
        parts = []
        for patches, cls in layers_of(model, pixels, self.indices, normed=False):
            x = as_map(patches, model)
            x = torch.cat((x, cls[:, :, None, None].expand_as(x)), dim=1)
            parts.append(F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False))
        votes = self.conv_depth(torch.cat(parts, dim=1)).relu() + 0.1
        bins = torch.linspace(0.001, self.max_depth, votes.shape[1])
        return torch.einsum("bkrc,k->brc", votes / votes.sum(dim=1, keepdim=True), bins)


def conv(inputs: int, outputs: int, size: int, *, bias: bool = True) -> nn.Module:
    """A convolution one level down, where mmcv's ConvModule keeps it."""
    module = nn.Module()
    module.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)
    return module


class Residual(nn.Module):
    """PreActResidualConvUnit."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels, 3, bias=False), conv(channels, channels, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2.conv(self.conv1.conv(x.relu()).relu())


class Fusion(nn.Module):
    """FeatureFusionBlock; the first one has nothing finer to add."""

    def __init__(self, channels: int, *, first: bool) -> None:
        super().__init__()
        self.project = conv(channels, channels, 1)
        if not first:
            self.res_conv_unit1 = Residual(channels)
        self.res_conv_unit2 = Residual(channels)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        if finer is not None:
            if finer.shape != x.shape:
                finer = F.interpolate(finer, size=x.shape[2:], mode="bilinear", align_corners=False)
            x = x + self.res_conv_unit1(finer)
        x = F.interpolate(self.res_conv_unit2(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.project.conv(x)


class Dpt(nn.Module):
    """DPTHead with readout "project" and without bins."""

    def __init__(self, width: int, indices: list[int], channels: int, sizes: list[int]) -> None:
        super().__init__()
        self.indices = indices
        blocks = self.reassemble_blocks = nn.Module()
        blocks.projects = nn.ModuleList(conv(width, size, 1) for size in sizes)
        blocks.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(sizes[0], sizes[0], 4, 4),
                nn.ConvTranspose2d(sizes[1], sizes[1], 2, 2),
                nn.Identity(),
                nn.Conv2d(sizes[3], sizes[3], 3, 2, 1),
            ]
        )
        blocks.readout_projects = nn.ModuleList(nn.Sequential(nn.Linear(2 * width, width), nn.GELU()) for _ in sizes)
        self.convs = nn.ModuleList(conv(size, channels, 3, bias=False) for size in sizes)
        self.fusion_blocks = nn.ModuleList(Fusion(channels, first=i == 0) for i in range(4))
        self.project = conv(channels, channels, 3)
        self.conv_depth = nn.Module()
        self.conv_depth.head = nn.Sequential(
            nn.Conv2d(channels, channels // 2, 3, 1, 1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(channels // 2, 32, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )

    def run(self, model: VisionTransformer, pixels: Tensor) -> Tensor:
        maps, blocks = [], self.reassemble_blocks
        for i, (patches, cls) in enumerate(layers_of(model, pixels, self.indices, normed=False)):
            both = torch.cat((patches, cls[:, None].expand_as(patches)), dim=-1)
            x = blocks.projects[i].conv(as_map(blocks.readout_projects[i](both), model))
            maps.append(self.convs[i].conv(blocks.resize_layers[i](x)))
        x = self.fusion_blocks[0](maps[3])
        for i in (1, 2, 3):
            x = self.fusion_blocks[i](x, maps[3 - i])
        return self.conv_depth.head(self.project.conv(x).relu()).relu()[:, 0] + 0.001


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with random batch-norm statistics and, as checkpoints have it, ready to be evaluated."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight += 1
                part.running_mean = torch.randn(part.num_features, generator=generator)
                part.running_var = 0.5 + torch.rand(part.num_features, generator=generator)
    return module.eval()


def every_kind(config: ViTConfig) -> dict[str, Head]:
    """One head of every kind, random, and of those with one layer or several both; for a config of four blocks."""

    def state(module: nn.Module) -> dict[str, np.ndarray]:
        return {key: value.numpy() for key, value in randomised(module).state_dict().items()}

    width, every = config.width, list(range(config.depth))
    rng = np.random.default_rng(0)
    gallery = {"gallery": rng.standard_normal((9, width)).astype(np.float32), "labels": rng.integers(0, 3, 9)}
    decoder = randomised(SaliencyHead(width, (16, 8, 4), 14))
    assert isinstance(decoder, SaliencyHead)
    return {
        "cls": LinearClassifier.from_state(state(Classifier(width, 1, 7)), config),
        "cls4": LinearClassifier.from_state(state(Classifier(width, 4, 7)), config),
        "knn": NearestNeighbours.from_state(gallery, config),
        "seg": LinearSegmenter.from_state(state(Segmenter(width, 4, 5)), config),
        "depth": LinearDepth.from_state(state(LinearDepther(width, every[-1:], 16, 10)), config, 10.0),
        "depth4": LinearDepth.from_state(state(LinearDepther(width, every, 16, 10)), config, 10.0),
        "dpt": DptDepth.from_state(state(Dpt(width, every, 16, [8, 16, 24, 32])), config),
        "saliency": SaliencyProgram.of(decoder, config),
    }
