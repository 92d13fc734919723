"""The network's operations computed by torch: the reference of heads, and the proof of the programs themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from edgekit.graph.emitter import Activation, Conv, Corners, Emitter, Grid, Tensors
from edgekit.graph.gemms import GemmStrategy
from edgekit.graph.heads import Head, emit_heads
from edgekit.models.vit import VisionTransformer
from edgekit.surgery import state_of

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig
    from edgekit.plan.heads import HeadPlan, LayerPlan
    from edgekit.plan.quant import StaticInput


class TorchGemms(GemmStrategy[Tensor]):
    """Every product in float32."""

    def __init__(self, config: ViTConfig, tensors: Tensors) -> None:
        self.config, self.tensors = config, tensors

    @override
    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias"))

    @override
    def patch_embed(self, name: str, pixels: Tensor) -> Tensor:
        weight, bias = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return F.conv2d(pixels, weight, bias, self.config.patch).flatten(2).transpose(1, 2)

    @override
    def attention(self, name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * self.tensors[f"{name}.scale"].item()).softmax(-1) @ v

    def parameter(self, key: str) -> Tensor:
        """A tensor of the model."""
        return _tensor(self.tensors[key])


class TorchEmitter(Emitter[Tensor]):
    """`Emitter` that computes at once instead of writing; integers of heads are held as float32."""

    def __init__(self, config: ViTConfig, tensors: Tensors, head_plan: HeadPlan | None = None) -> None:
        super().__init__(config, tensors, TorchGemms(config, tensors), head_plan)

    @override
    def prepend_tokens(self, patches: Tensor) -> Tensor:
        tokens = _tensor(self.prefix_tokens).expand(len(patches), -1, -1)  # (B, 1 + R, D)
        return torch.cat((tokens, patches + _tensor(self.patch_positions)), dim=1)

    @override
    def split_heads(self, name: str, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = packed.unflatten(2, (3, self.config.heads, self.config.head_dim)).permute(2, 0, 3, 1, 4)
        return q, k, v

    @override
    def turn(self, name: str, x: Tensor, shift: np.ndarray | None) -> Tensor:
        cos, sin = map(_tensor, self.rotation)
        turned = x * cos + x.roll(x.shape[-1] // 2, -1) * sin
        return turned if shift is None else turned + _tensor(shift)

    @override
    def join_heads(self, name: str, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    @override
    def scale_channels(self, x: Tensor, key: str, name: str) -> Tensor:
        return x * _tensor(self.tensors[key])

    @override
    def swiglu(self, x: Tensor, name: str) -> Tensor:
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate) * value

    @override
    def add(self, a: Tensor, b: Tensor, name: str = "") -> Tensor:
        return a + b

    @override
    def layer_norm(self, x: Tensor, weight: np.ndarray, bias: np.ndarray, name: str = "") -> Tensor:
        return F.layer_norm(x, weight.shape, _tensor(weight), _tensor(bias), self.config.norm_eps)

    @override
    def matmul(self, x: Tensor, matrix: np.ndarray, name: str = "") -> Tensor:
        return x @ _tensor(matrix)

    @override
    def activate(self, x: Tensor, function: Activation, name: str = "") -> Tensor:
        match function:
            case "relu":
                return F.relu(x)
            case "gelu":
                return F.gelu(x)
            case "sigmoid":
                return torch.sigmoid(x)

    @override
    def class_token(self, tokens: Tensor, name: str = "") -> Tensor:
        return tokens[:, 0]

    @override
    def mean_patch(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.prefix :].mean(1)

    @override
    def patch_map(self, tokens: Tensor) -> Tensor:
        return tokens[:, self.prefix :].transpose(1, 2).unflatten(2, (self.rows, self.columns))

    @override
    def concat(self, values: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(values), dim=1)

    @override
    def resize(self, image: Tensor, size: Grid, corners: Corners) -> Tensor:
        return F.interpolate(image, size, mode="bilinear", align_corners=corners == "aligned")

    @override
    def add_channelwise(self, image: Tensor, vector: Tensor) -> Tensor:
        return image + vector[:, :, None, None]

    @override
    def add_scalar(self, x: Tensor, value: float) -> Tensor:
        return x + value

    @override
    def divide(self, a: Tensor, b: Tensor) -> Tensor:
        return a / b

    @override
    def softmax(self, vector: Tensor) -> Tensor:
        return vector.softmax(1)

    @override
    def l2_normalize(self, vector: Tensor) -> Tensor:
        return F.normalize(vector, dim=1)

    @override
    def float_linear(self, vector: Tensor, weight: np.ndarray, bias: np.ndarray) -> Tensor:
        return F.linear(vector, _tensor(weight), _tensor(bias))

    @override
    def integer_linear(self, vector: Tensor, layer: LayerPlan) -> Tensor:
        return self.float_linear(vector, layer.dequantized(), layer.bias)

    @override
    def float_conv(self, image: Tensor, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> Tensor:
        x = F.conv2d(image, _tensor(weight), _tensor(bias), shape.stride, shape.padding)
        return F.pixel_shuffle(F.relu(x) if shape.relu else x, shape.shuffle)

    @override
    def integer_conv(self, image: Tensor, layer: LayerPlan, shape: Conv) -> Tensor:
        weight = layer.dequantized()
        if layer.input is None or layer.output is None:
            return self.float_conv(image, weight, layer.bias, shape)
        image = _fake_quantize(image, layer.input)
        return _fake_quantize(self.float_conv(image, weight, layer.bias, shape), layer.output)


def tokens_of(model: VisionTransformer, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Tokens (B, N, D) behind the final norm of pixels (B, 3, H, W), and the residual stream behind each block."""
    x, blocks = model.embed(pixels), []
    for block in model.blocks:
        x = block(x)
        blocks.append(x)
    return model.finish(x), blocks


@torch.no_grad()
def run_with_heads(
    model: VisionTransformer, heads: Mapping[str, Head], pixel_values: np.ndarray, plan: HeadPlan | None = None
) -> dict[str, np.ndarray]:
    """All outputs of a baked model and its heads on (B, 3, H, W) float32, by name; heads as `plan` has them."""
    hidden, blocks = tokens_of(model, torch.from_numpy(pixel_values))
    outputs = {"last_hidden_state": hidden, "pooler_output": hidden[:, 0]}
    if heads:
        grid = model.config.grid_of(*pixel_values.shape[2:])  # of the images: the model need not be baked
        emitter = TorchEmitter(replace(model.config, grid=grid), state_of(model), plan)
        found = emit_heads(emitter, heads, blocks, hidden)
        outputs |= {name: value.reshape(len(hidden), *heads[name].shape(grid)) for name, value in found.items()}
    return {name: value.numpy() for name, value in outputs.items()}


def _fake_quantize(x: Tensor, quantizer: StaticInput) -> Tensor:
    """x quantized to uint8 and dequantized again."""
    q = (torch.round(x / quantizer.scale) + quantizer.zero_point).clamp(0, 255)
    return (q - quantizer.zero_point) * quantizer.scale


def _tensor(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value, np.float32))
