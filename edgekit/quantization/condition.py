"""Prepares one float block for integers: observes its GEMM inputs, rewrites it exactly, chooses input ranges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from edgekit.plan.quant import InputQuantizer, StaticInput, TokenGroupInput, TokenScaledInput
from edgekit.quantization.observe import InputObserver
from edgekit.quantization.ranges import (
    CLIPPED,
    EXACT,
    Smoothing,
    SmoothingOptions,
    choose_smoothing,
    quantile_reach,
    quotients,
    static_input,
)
from edgekit.quantization.rounding import weight_limit
from edgekit.quantization.stages import Stage, State, stages_of
from edgekit.surgery.balance_values import balance_values
from edgekit.surgery.centre_keys import centre_keys
from edgekit.surgery.centre_turned_keys import centre_turned_keys
from edgekit.surgery.centre_values import centre_values
from edgekit.surgery.scale_hidden import scale_hidden
from edgekit.surgery.smooth_norm import smooth_norm

if TYPE_CHECKING:
    from edgekit.models.vit import Block, Mlp
    from edgekit.recipe import QuantizeRecipe


_UNEVEN = ("attn.proj", "mlp.fc2", "mlp.w3")  # no LayerNorm in front: some tokens are many times larger than others


@dataclass(frozen=True)
class InputChoice:
    """The chosen quantizer of one GEMM's input, for the plan's provenance and `explain`."""

    quantizer: InputQuantizer
    smoothing: Smoothing
    peak: float  # abs-max before the rewrite
    peak_channel: int
    typical: float  # median over channels of their abs-max
    mean: Tensor  # (K,) float64 of the rewritten input, see `InputObserver.mean`

    def words(self) -> dict[str, float | str | int]:
        """The choice as plain values for the plan's provenance."""
        s = self.smoothing
        return {
            "alpha": s.alpha,
            "spread": s.spread,
            "floor": s.floor,
            "margin": s.margin,
            "peak": self.peak,
            "peak_channel": self.peak_channel,
            "typical": self.typical,
        }


@dataclass(frozen=True)
class Observed:
    """Statistics of a float block on the calibration images."""

    inputs: dict[str, InputObserver]  # of each GEMM, by stage
    mean_key: Tensor  # (D,), turned where positions are rotary
    outputs: list[Tensor]  # batches (B, N, D) of the residual stream behind it


def observe(block: Block, stream: Iterable[Tensor], special: int, images: int, photographs: int) -> Observed:
    """Statistics of every GEMM input of a float block, its mean key, and its outputs.

    Args:
        block: before its surgery.
        stream: batches (B, N, D) of the residual stream in front of it.
        special: CLS and registers are tokens [0, special).
        images: how many images the stream holds in all.
        photographs: how many of them are; they come first.
    """
    observers = {stage.part: InputObserver(special, images, photographs) for stage in stages_of(block)}
    behind = []
    keys = torch.zeros(block.attn.proj.in_features, dtype=torch.float64)
    for x in stream:
        state: State = {"x": x}
        for stage in stages_of(block):
            inputs = stage.input(state)
            observers[stage.part].update(inputs)
            outputs = stage.linear(inputs)
            if stage.part == "attn.qkv":
                key = outputs.chunk(3, -1)[1]
                if block.attn.rotation is not None:
                    key = block.attn.split_heads(outputs)[1].transpose(1, 2).flatten(2)
                keys += key.double().mean(1).sum(0)
            state = stage.advance(state, outputs)
        behind.append(state["x"])
    return Observed(observers, (keys / images).float(), behind)


def condition(
    block: Block,
    observers: dict[str, InputObserver],
    mean_key: Tensor,
    fold: Tensor,
    recipe: QuantizeRecipe,
    *,
    registers: int,
) -> dict[str, InputChoice]:
    """Choose each input's smoothing and range, and rewrite `block` accordingly, in place (the function stays equal).

    Args:
        block: float block, LayerScale folded.
        observers: of `observe`, by stage.
        mean_key: (D,), taken out of the keys.
        fold: (images,) bool, the cross-validation fold of each image.
        recipe: which rewrites are wanted.
        registers: number of register tokens; decides on token groups when the recipe leaves it open.
    """
    choices = {}
    if recipe.centre_keys and block.attn.rotation is None:
        centre_keys(block, mean_key)
    elif recipe.centre_keys and recipe.level == "all":  # else keys stay float, and a subtraction gains nothing
        centre_turned_keys(block, mean_key)
    for stage in stages_of(block):
        observer = observers[stage.part]
        rows, special, owners = observer.sample()
        can_shift, can_scale = _allowed(stage, recipe)
        by_token = recipe.token_scale and stage.part in _UNEVEN
        options = SmoothingOptions(
            shift=can_shift,
            scale=can_scale,
            by_token=by_token,
            margins=CLIPPED if recipe.activation_range in ("block", "mse") and not by_token else EXACT,
            weight_levels=weight_limit(recipe.bits),
            weight_gain=0.25 if recipe.rounding == "gptq" else 1.0,
        )
        smoothing = choose_smoothing(rows, fold[owners], stage.linear.weight, options)
        _rewrite(block, stage, smoothing)
        extremes = torch.stack((observer.low, observer.high))  # type: ignore[arg-type]
        magnitudes = extremes.abs().amax(0)
        extremes = (extremes - smoothing.shift) / smoothing.scale
        rows = (rows - smoothing.shift) / smoothing.scale
        if by_token:
            rows = quotients(rows)
            extremes = torch.stack(rows.aminmax())
        if recipe.activation_range == "percentile":
            extremes = quantile_reach(rows)
        covering = _covering(extremes, smoothing.margin)
        quantizer: InputQuantizer = TokenScaledInput(covering) if by_token else covering
        split = recipe.token_groups == "on" or (recipe.token_groups == "auto" and registers > 0)
        if split and not by_token:
            head, tail = (_covering(part, smoothing.margin) for part in (rows[special], rows[~special]))
            quantizer = TokenGroupInput(observer.special, head, tail)
        choices[stage.part] = InputChoice(
            quantizer,
            smoothing,
            float(magnitudes.max()),
            int(magnitudes.argmax()),
            float(magnitudes.median()),
            (observer.mean - smoothing.shift) / smoothing.scale,
        )
    return choices


def _covering(values: Tensor, margin: float) -> StaticInput:
    """The uint8 quantizer for [min, max] * margin of `values`."""
    return static_input(float(values.min()) * margin, float(values.max()) * margin)


def _allowed(stage: Stage, recipe: QuantizeRecipe) -> tuple[bool, bool]:
    """Whether a shift and a scale of this input can be folded away before it, and are wanted."""
    smooth = recipe.smooth == "search"
    return {
        "attn.qkv": (smooth, smooth),
        "attn.proj": (recipe.centre_values, recipe.balance_values),
        "mlp.fc1": (smooth, smooth),
        "mlp.w12": (smooth, smooth),
        "mlp.fc2": (False, recipe.fc2_scale == "search"),
        "mlp.w3": (False, False),
    }[stage.part]


def _rewrite(block: Block, stage: Stage, smoothing: Smoothing) -> None:
    match stage.part:
        case "attn.qkv":
            smooth_norm(block.norm1, stage.linear, smoothing.shift, smoothing.scale)
        case "attn.proj":
            centre_values(block, smoothing.shift)
            balance_values(block, smoothing.scale)
        case "mlp.fc1" | "mlp.w12":
            smooth_norm(block.norm2, stage.linear, smoothing.shift, smoothing.scale)
        case "mlp.fc2" if bool((smoothing.scale != 1).any()):
            scale_hidden(cast("Mlp", block.mlp), smoothing.scale)
