"""Quantizes heads: ranges from calibration images, int8 weights, and a gate that keeps float what costs too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from edgekit.graph.emitter import Conv, Tensors
from edgekit.graph.heads import Head, emit_heads
from edgekit.graph.torch_emitter import TorchEmitter, tokens_of
from edgekit.metrics import decibel
from edgekit.models.config import ViTConfig
from edgekit.models.vit import VisionTransformer
from edgekit.plan.heads import HEADS, HeadPlan, LayerPlan
from edgekit.progress import Progress
from edgekit.quantization.ranges import static_input
from edgekit.quantization.rounding import quantize_weight
from edgekit.surgery import state_of

LEAST_OUTPUTS = 8  # layers with fewer stay float: cheap, and their output is the task's result
LEAST_SQNR_DB = 35.0  # of a head's output, on the float model's features
IMAGES, JUDGES = 32, 8  # calibration images that heads see at most, and how many of them judge
_FEW = 2  # of the judges find out which layers are to blame
_BATCH = 4
_LARGEST_BIAS = 2.0**30  # steps of the int32 accumulator


def quantize_heads(
    model: VisionTransformer,
    heads: Mapping[str, Head],
    pixel_values: np.ndarray,
    *,
    bits: float = 8,
    progress: Progress = lambda done, total: None,
) -> HeadPlan:
    """The plan of a baked model's heads.

    Ranges hold all values seen: ranges that clip to the least squared error of each tensor cost a DPT depth head 8 dB
    on other photographs. Weights are rounded to nearest, at the scale per output channel with the least squared error.
    Where the noise in a head's output, on images that no range comes from, then is above `LEAST_SQNR_DB`, the layers
    that are to blame stay float until it is not.

    Args:
        model: float, baked.
        heads: by name.
        pixel_values: (n, 3, H, W) calibration images as the model takes them; the first `IMAGES` are looked at.
        bits: of the weights, 8 or less.
        progress: told how many images are done, and of how many.
    """
    images = torch.from_numpy(pixel_values[:IMAGES])
    seen = max(1, len(images) - JUDGES)
    watch = _Watch(model.config, state_of(model))
    with torch.no_grad():
        for start in range(0, seen, _BATCH):
            hidden, blocks = tokens_of(model, images[start : min(seen, start + _BATCH)])
            emit_heads(watch, heads, blocks, hidden)
            progress(min(seen, start + _BATCH), len(images))
    layers = {name: _planned(layer, watch.layers.get(layer.source), bits) for name, layer in watch.layers.items()}
    gate = _Gate(model, heads, images[-JUDGES:], {name: layer.work for name, layer in watch.layers.items()})
    plan = HeadPlan({})
    for name in heads:
        own = gate.passed(name, {layer: p for layer, p in layers.items() if layer.startswith(f"{HEADS}{name}.")})
        plan = HeadPlan(plan.layers | own.layers, plan.kept_float | own.kept_float, plan.sqnr_db | own.sqnr_db)
    progress(len(images), len(images))
    return plan


def _planned(layer: _Layer, source: _Layer | None, bits: float) -> LayerPlan:
    """Integers of one layer; `source` is the one whose output, rounded already, is its input."""
    integers = quantize_weight(torch.from_numpy(layer.weight).flatten(1), bits, None, "mse", torch.empty(0))
    weight, scale = integers.integers.numpy().reshape(layer.weight.shape), integers.scale[:, 0].numpy()
    if layer.weight.ndim == 2:
        return LayerPlan(weight, scale, layer.bias)
    entering = static_input(*(source.leaving if source else layer.entering))
    least = np.abs(layer.bias) / np.float32(entering.scale * _LARGEST_BIAS)  # of an output that is next to constant
    return LayerPlan(weight, np.maximum(scale, least), layer.bias, entering, static_input(*layer.leaving))


class _Gate:
    """Accuracy gate of a head's integers on held-out images, which reverts layers to float until the head passes."""

    def __init__(
        self, model: VisionTransformer, heads: Mapping[str, Head], images: Tensor, work: Mapping[str, int]
    ) -> None:
        """Start with the float outputs of `images`; `work` is the multiplications of each layer for one image."""
        self.heads, self.work, self.config, self.tensors = heads, work, model.config, state_of(model)
        with torch.no_grad():
            self.hidden, self.blocks = tokens_of(model, images)

    def passed(self, head: str, layers: Mapping[str, LayerPlan]) -> HeadPlan:
        """The plan of one head, with as many layers in integers as its accuracy allows."""
        wanted = self.output(head, {})
        kept, reasons = dict(layers), dict[str, str]()
        figure = output_sqnr_db(wanted, self.output(head, kept))
        for part in ("input and output", "weights"):
            if figure < LEAST_SQNR_DB:
                figure = self.revert(head, part, wanted, kept, reasons)
        return HeadPlan(kept, reasons, {head: figure})

    def order(self, noise: Mapping[str, float]) -> list[str]:
        """Layers in the order in which they are reverted: by noise per multiplication that their integers save."""
        return sorted(noise, key=lambda name: noise[name] / self.work[name], reverse=True)

    def revert(
        self, head: str, part: str, wanted: Tensor, kept: dict[str, LayerPlan], reasons: dict[str, str]
    ) -> float:
        """Revert layers of `kept` to float, in place, until the head passes; returns the SQNR of its output then."""
        alone = {
            name: output_sqnr_db(wanted[:_FEW], self.output(head, {name: layer}, _FEW)) for name, layer in kept.items()
        }
        noise = {name: 10 ** (-db / 10) for name, db in alone.items()}
        for name in self.order(noise):
            if part == "weights":
                del kept[name]
            elif kept[name].input:
                kept[name] = replace(kept[name], input=None, output=None)
            else:
                continue
            reasons[name] = f"the {part} stay float: rounded alone they leave the head {alone[name]:.1f} dB"
            del noise[name]
            if sum(noise.values()) <= 10 ** (-LEAST_SQNR_DB / 10):  # rounding errors of layers add up
                figure = output_sqnr_db(wanted, self.output(head, kept))
                if figure >= LEAST_SQNR_DB:
                    return figure
        return output_sqnr_db(wanted, self.output(head, kept))  # all layers were reverted: measure once more

    @torch.no_grad()
    def output(self, head: str, layers: Mapping[str, LayerPlan], images: int | None = None) -> Tensor:
        """The output of a head with these layers in integers, for all or the first few images."""
        e = TorchEmitter(self.config, self.tensors, HeadPlan(dict(layers)))
        blocks = [block[:images] for block in self.blocks]
        return emit_heads(e, {head: self.heads[head]}, blocks, self.hidden[:images])[head]


def output_sqnr_db(wanted: Tensor, found: Tensor) -> float:
    """SQNR of outputs (n, C) or (n, C, rows, columns) whose signal is the variance of each channel.

    A head's output may have a large mean (depth in metres) that no rounding touches: it must not count as signal.
    """
    axes = [0, *range(2, wanted.ndim)]
    signal = (wanted - wanted.mean(axes, keepdim=True)).double().square().sum()
    return decibel(float(signal), float((found - wanted).double().square().sum()))


@dataclass
class _Layer:
    weight: np.ndarray
    bias: np.ndarray
    work: int  # multiplications for one image
    source: str = ""  # the layer whose output is its input as it is
    entering: tuple[float, float] = (0.0, 0.0)  # least and largest value
    leaving: tuple[float, float] = (0.0, 0.0)


class _Watch(TorchEmitter):
    """Notes the layers that are worth integers, and the ranges of what goes in and out of the convolutions."""

    def __init__(self, config: ViTConfig, tensors: Tensors) -> None:
        super().__init__(config, tensors)
        self.layers: dict[str, _Layer] = {}
        self._last: tuple[Tensor | None, str] = None, ""

    @override
    def float_linear(self, vector: Tensor, weight: np.ndarray, bias: np.ndarray) -> Tensor:
        if len(weight) >= LEAST_OUTPUTS:
            self.layers.setdefault(self.here, _Layer(weight, bias, weight.size))
        return super().float_linear(vector, weight, bias)

    @override
    def float_conv(self, image: Tensor, weight: np.ndarray, bias: np.ndarray, shape: Conv) -> Tensor:
        result = super().float_conv(image, weight, bias, shape)
        if len(weight) >= LEAST_OUTPUTS:
            source = self._last[1] if image is self._last[0] else ""
            layer = self.layers.setdefault(self.here, _Layer(weight, bias, weight[0].size * result[0].numel(), source))
            layer.entering, layer.leaving = _joined(layer.entering, image), _joined(layer.leaving, result)
            self._last = result, self.here
        return result


def _joined(reach: tuple[float, float], x: Tensor) -> tuple[float, float]:
    low, high = x.aminmax()
    return min(reach[0], float(low)), max(reach[1], float(high))
