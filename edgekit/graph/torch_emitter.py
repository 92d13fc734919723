"""Heads computed by torch: the reference that every format is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.graph.heads import Conv, Grid, Head, HeadOps, emit_heads
from edgekit.models.vit import LAYER_NORM_EPS, DinoV2
from edgekit.quantize.simulate import fake_quantize
from edgekit.surgery import state_of

if TYPE_CHECKING:
    from edgekit.plan.heads import HeadPlan, LayerPlan


class TorchOps(HeadOps[Tensor]):
    """`HeadOps` on tensors; integers are held as float32."""

    def __init__(self, grid: Grid, plan: HeadPlan | None = None) -> None:
        super().__init__(plan)
        self.rows, self.columns = grid

    def norm(self, tokens: Tensor, weight: np.ndarray, bias: np.ndarray) -> Tensor:
        """LayerNorm."""
        return F.layer_norm(tokens, weight.shape, _tensor(weight), _tensor(bias), LAYER_NORM_EPS)

    def turn(self, tokens: Tensor, matrix: np.ndarray) -> Tensor:
        """Matrix product."""
        return tokens @ _tensor(matrix)

    def cls(self, tokens: Tensor) -> Tensor:
        """(B, D)."""
        return tokens[:, 0]

    def mean(self, tokens: Tensor) -> Tensor:
        """(B, D)."""
        return tokens[:, -self.rows * self.columns :].mean(1)

    def grid(self, tokens: Tensor) -> Tensor:
        """(B, D, rows, columns)."""
        return tokens[:, -self.rows * self.columns :].transpose(1, 2).unflatten(2, (self.rows, self.columns))

    def join(self, values: Sequence[Tensor]) -> Tensor:
        """Concatenation along the channels."""
        return torch.cat(list(values), dim=1)

    def resize(self, image: Tensor, size: Grid, corners: Literal["aligned", "free"]) -> Tensor:
        """Bilinear."""
        return F.interpolate(image, size, mode="bilinear", align_corners=corners == "aligned")

    def plus(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum."""
        return a + b

    def spread(self, image: Tensor, vector: Tensor) -> Tensor:
        """Broadcast sum."""
        return image + vector[:, :, None, None]

    def offset(self, x: Tensor, value: float) -> Tensor:
        """Sum with a constant."""
        return x + value

    def divide(self, a: Tensor, b: Tensor) -> Tensor:
        """Quotient."""
        return a / b

    def apply(self, x: Tensor, function: Literal["relu", "gelu", "sigmoid"]) -> Tensor:
        """relu, gelu or sigmoid."""
        match function:
            case "relu":
                return F.relu(x)
            case "gelu":
                return F.gelu(x)
            case "sigmoid":
                return torch.sigmoid(x)

    def softmax(self, vector: Tensor) -> Tensor:
        """Over the channels."""
        return vector.softmax(1)

    def unit(self, vector: Tensor) -> Tensor:
        """Divided by its length."""
        return F.normalize(vector, dim=1)

    def float_linear(self, vector: Tensor, weight: np.ndarray, bias: np.ndarray) -> Tensor:
        """Linear layer."""
        return F.linear(vector, _tensor(weight), _tensor(bias))

    def integer_linear(self, vector: Tensor, layer: LayerPlan) -> Tensor:
        """Linear layer over the weights that the integers stand for."""
        return self.float_linear(vector, layer.dequantized(), layer.bias)

    def float_conv(self, image: Tensor, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> Tensor:
        """Convolution, ReLU and pixel shuffle."""
        x = F.conv2d(image, _tensor(weight), _tensor(bias), shape.stride, shape.padding)
        return F.pixel_shuffle(F.relu(x) if shape.relu else x, shape.shuffle)

    def integer_conv(self, image: Tensor, layer: LayerPlan, shape: Conv) -> Tensor:
        """Convolution between two quantizers, or over float maps."""
        weight = layer.dequantized()
        if layer.input is None or layer.output is None:
            return self.float_conv(image, weight, layer.bias, shape)
        image = fake_quantize(layer.input, image)
        return fake_quantize(layer.output, self.float_conv(image, weight, layer.bias, shape))


def tokens_of(model: DinoV2, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(B, 3, H, W) -> tokens (B, N, D) behind the final norm, and the residual stream behind each block."""
    x, blocks = model.embed(pixels), []
    for block in model.blocks:
        x = block(x)
        blocks.append(x)
    return model.finish(x), blocks


@torch.no_grad()
def run_with_heads(
    model: DinoV2, heads: Mapping[str, Head], pixel_values: np.ndarray, plan: HeadPlan | None = None
) -> dict[str, np.ndarray]:
    """All outputs of a baked model and its heads on (B, 3, H, W) float32, by name; heads as `plan` has them."""
    hidden, blocks = tokens_of(model, torch.from_numpy(pixel_values))
    grid = model.config.grid
    outputs = {"last_hidden_state": hidden, "pooler_output": hidden[:, 0]}
    if heads:
        found = emit_heads(TorchOps(grid, plan), heads, blocks, hidden, state_of(model), grid)
        outputs |= {name: value.reshape(len(hidden), *heads[name].shape(grid)) for name, value in found.items()}
    return {name: value.numpy() for name, value in outputs.items()}


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value, np.float32))
