"""The quantization engine: a baked float model and calibration pixels in, a QuantPlan out, one block at a time.

Two streams of calibration images run side by side: one through the float model, one through what is already quantized.
Each block is first rewritten by exact surgery whose parameters are read off the float stream, then its GEMMs are
quantized in the order they run, each fitted to give the float stream's output from the quantized stream's input.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from edgekit.errors import DataError
from edgekit.quantize.observe import InputObserver
from edgekit.quantize.plan import GemmPlan, InputQuantizer, QuantPlan, StaticInput, TokenGroupInput
from edgekit.quantize.ranges import MARGINS, Smoothing, choose_smoothing, static_input, unlike_halves
from edgekit.quantize.rounding import quantize_weight, weight_limit
from edgekit.quantize.simulate import IntegerLinear, IntegerPatchEmbed, fake_quantize
from edgekit.quantize.stages import Stage, State, stages_of
from edgekit.surgery import state_of
from edgekit.surgery.balance_values import balance_values
from edgekit.surgery.centre_keys import centre_keys
from edgekit.surgery.centre_values import centre_values
from edgekit.surgery.fold_attention_scale import fold_attention_scale
from edgekit.surgery.fold_layerscale import fold_layerscale
from edgekit.surgery.scale_hidden import scale_hidden
from edgekit.surgery.smooth_norm import smooth_norm

if TYPE_CHECKING:
    from edgekit.models.dinov2 import Block, DinoV2
    from edgekit.recipe import QuantizeRecipe

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all

BATCH = 8  # images that run together: bounds the activations alive at once
RIDGE = 0.01  # share of the mean Hessian diagonal that holds the fitted weights near the original ones


@dataclass(frozen=True)
class InputChoice:
    """How one GEMM's input was decided: for the plan's provenance and `explain`."""

    quantizer: InputQuantizer
    smoothing: Smoothing

    def words(self) -> dict[str, float | str]:
        """The choice as plain values for the plan's provenance."""
        s = self.smoothing
        return {"alpha": s.alpha, "spread": s.spread, "floor": s.floor, "margin": s.margin}


@torch.no_grad()
def quantize(
    model: DinoV2,
    pixel_values: np.ndarray,
    recipe: QuantizeRecipe,
    *,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> QuantPlan:
    """Quantize a baked model.

    Args:
        model: un-rewritten float model for one image size (`DinoV2.bake`); it is not changed.
        pixel_values: (n, 3, height, width) float32 calibration images, preprocessed as the model wants them.
        recipe: the steps to take.
        progress: called after each GEMM.
        cache: folder that keeps finished blocks, so that a killed run continues where it was.

    Raises:
        DataError: fewer than two calibration images, or their size is not the model's.
    """
    rows, columns = model.config.grid
    size = (rows * model.config.patch, columns * model.config.patch)
    if len(pixel_values) < 2 or pixel_values.shape[2:] != size:
        raise DataError(f"calibration pixels have shape {tuple(pixel_values.shape)}",
                        why=f"at least 2 images of {size[0]}x{size[1]} are needed", fix="--samples 64")
    return _Engine(model, torch.from_numpy(pixel_values), recipe, progress or (lambda *_: None)).run(size)


class _Engine:
    """State of one run: the rewritten model, the two streams and the GEMMs finished so far."""

    def __init__(self, model: DinoV2, pixels: Tensor, recipe: QuantizeRecipe, progress: Progress) -> None:
        self.model, self.recipe, self.pixels, self._progress = deepcopy(model), recipe, pixels, progress
        fold_layerscale(self.model)
        fold_attention_scale(self.model)
        self.special = 1 + model.config.registers
        self.gemms: dict[str, GemmPlan] = {}
        self.choices: dict[str, InputChoice] = {}
        self.half = unlike_halves(torch.cat([self.model(batch)[1] for batch in pixels.split(BATCH)]))

    def run(self, size: tuple[int, int]) -> QuantPlan:
        total = 1 + 4 * len(self.model.blocks)
        embedded = self._patch_embedding()
        self._progress("patch_embed.proj", 1, total)
        exact = [self.model.embed(batch) for batch in self.pixels.split(BATCH)]
        patch_embed, self.model.patch_embed = self.model.patch_embed, embedded
        quantized = [self.model.embed(batch) for batch in self.pixels.split(BATCH)]
        self.model.patch_embed = patch_embed
        for index, block in enumerate(self.model.blocks):
            observers = self._observe(block, exact)
            choices = self._condition(block, observers)
            del observers
            exact, quantized = self._quantize_block(index, block, choices, exact, quantized, total)
        return QuantPlan(
            config=self.model.config, image_size=size, float_tensors=state_of(self.model), gemms=self.gemms,
            provenance={
                "recipe": self.recipe.model_dump(mode="json"),
                "inputs": {name: choice.words() for name, choice in self.choices.items()},
            },
        )  # fmt: skip

    def _patch_embedding(self) -> IntegerPatchEmbed:
        """Quantize the patch convolution; pixels have a known range, so nothing needs to be searched."""
        conv, patch = self.model.patch_embed.proj, self.model.config.patch
        quantizer = static_input(float(self.pixels.min()), float(self.pixels.max()))
        weight = conv.weight.flatten(1)  # (D, 3 * patch * patch)
        fit = _Fit(weight, conv.bias)
        for batch in self.pixels.split(BATCH):
            rows = torch.nn.functional.unfold(batch, patch, stride=patch).transpose(1, 2)
            fit.update(rows, fake_quantize(quantizer, rows))
        gemm = fit.solve("patch_embed.proj", quantizer, self.recipe)
        self.gemms[gemm.name] = gemm
        return IntegerPatchEmbed(IntegerLinear(gemm, kernel="float32"), patch)

    def _observe(self, block: Block, stream: list[Tensor]) -> dict[str, InputObserver]:
        """Statistics of every GEMM input of a float block; also centres its keys, which needs nothing else."""
        observers = {stage.part: InputObserver(self.special, len(self.pixels)) for stage in stages_of(block)}
        keys = torch.zeros(block.attn.proj.in_features, dtype=torch.float64)
        for x in stream:
            state: State = {"x": x}
            for stage in stages_of(block):
                inputs = stage.input(state)
                observers[stage.part].update(inputs)
                outputs = stage.linear(inputs)
                if stage.part == "attn.qkv":
                    keys += outputs.chunk(3, -1)[1].double().mean(1).sum(0)
                state = stage.advance(state, outputs)
        if self.recipe.centre_keys:
            centre_keys(block, (keys / len(self.pixels)).float())
        return observers

    def _condition(self, block: Block, observers: dict[str, InputObserver]) -> dict[str, InputChoice]:
        """Choose each input's smoothing and range, and rewrite the block accordingly (exact surgery)."""
        recipe, choices = self.recipe, {}
        for stage in stages_of(block):
            rows, special, owners = observers[stage.part].sample()
            can_shift, can_scale = {
                "attn.qkv": (recipe.smooth == "search",) * 2,
                "attn.proj": (recipe.centre_values, recipe.balance_values),
                "mlp.fc1": (recipe.smooth == "search",) * 2,
                "mlp.w12": (recipe.smooth == "search",) * 2,
                "mlp.fc2": (False, recipe.fc2_scale == "search"),
                "mlp.w3": (False, False),
            }[stage.part]
            smoothing = choose_smoothing(
                rows, self.half[owners], stage.linear.weight, shift=can_shift, scale=can_scale,
                margins=(1.0,) if recipe.activation_range == "minmax" else MARGINS,
                weight_levels=weight_limit(recipe.weight_bits), weight_gain=0.25 if recipe.rounding == "gptq" else 1.0,
            )  # fmt: skip
            _rewrite(block, stage, smoothing)
            observer = observers[stage.part]
            extremes = torch.stack((observer.low, observer.high))  # type: ignore[arg-type]
            extremes = (extremes - smoothing.shift) / smoothing.scale
            rows = (rows - smoothing.shift) / smoothing.scale
            choices[stage.part] = InputChoice(
                self._quantizer(rows, special, extremes, smoothing.margin), smoothing
            )
        return choices

    def _quantizer(self, rows: Tensor, special: Tensor, extremes: Tensor, margin: float) -> InputQuantizer:
        """Static quantizer over `margin` of the observed range; two of them when CLS and registers get their own."""
        groups = self.recipe.token_groups
        if groups == "off" or (groups == "auto" and self.model.config.registers == 0):
            return static_input(float(extremes.min()) * margin, float(extremes.max()) * margin)
        head, tail = (
            static_input(float(part.min()) * margin, float(part.max()) * margin)
            for part in (rows[special], rows[~special])
        )
        return TokenGroupInput(self.special, head, tail)

    def _quantize_block(
        self, index: int, block: Block, choices: dict[str, InputChoice], exact: list[Tensor], quantized: list[Tensor],
        total: int,
    ) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
        """Quantize the block's GEMMs in order; returns both streams behind the block."""
        integer_block = deepcopy(block)
        exact_states: list[State] = [{"x": x} for x in exact]
        quantized_states: list[State] = [{"x": x} for x in quantized]
        for step, stage in enumerate(stages_of(block)):
            name = f"blocks.{index}.{stage.part}"
            choice = choices[stage.part]
            fit = _Fit(stage.linear.weight, stage.linear.bias)
            integer_stage = stages_of(integer_block)[step]
            for state, integer_state in zip(exact_states, quantized_states, strict=True):
                fit.update(stage.input(state), fake_quantize(choice.quantizer, integer_stage.input(integer_state)))
            gemm = fit.solve(name, choice.quantizer, self.recipe)
            linear = IntegerLinear(gemm, kernel="float32")
            exact_states = [stage.advance(s, stage.linear(stage.input(s))) for s in exact_states]
            quantized_states = [integer_stage.advance(s, linear(integer_stage.input(s))) for s in quantized_states]
            self.gemms[name], self.choices[name] = gemm, choice
            self._progress(name, 2 + 4 * index + step, total)
        return [s["x"] for s in exact_states], [s["x"] for s in quantized_states]


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
            scale_hidden(block.mlp, smoothing.scale)


class _Fit:
    """Streams the second moments of one GEMM and solves for its integer weights and bias.

    With x the float input, x^ the quantized one: the target is W x + b, the model W' x^ + b'. The ridge solution
    W' = (W E[x x^^T] + lambda W) (E[x^ x^^T] + lambda I)^-1 absorbs what activation quantization does systematically
    (ERQ, arXiv 2407.06794, eq. 9); rounding then follows the same Hessian, and b' takes up the means exactly.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        width = weight.shape[1]
        self.weight, self.bias = weight, bias
        self.hessian = torch.zeros(width, width, dtype=torch.float64)  # sum x^ x^^T
        self.cross = torch.zeros(width, width, dtype=torch.float64)  # sum (x - x^) x^^T
        self.sum_exact = torch.zeros(width, dtype=torch.float64)
        self.sum_quantized = torch.zeros(width, dtype=torch.float64)
        self.rows = 0

    def update(self, exact: Tensor, quantized: Tensor) -> None:
        """Add a batch: both (B, N, K)."""
        x, x_hat = exact.flatten(0, -2), quantized.flatten(0, -2)
        self.hessian += (x_hat.T @ x_hat).double()
        self.cross += ((x - x_hat).T @ x_hat).double()
        self.sum_exact += x.double().sum(0)
        self.sum_quantized += x_hat.double().sum(0)
        self.rows += len(x)

    def solve(self, name: str, quantizer: InputQuantizer, recipe: QuantizeRecipe) -> GemmPlan:
        """Integer weights, scales and both biases."""
        mean, mean_hat = self.sum_exact / self.rows, self.sum_quantized / self.rows
        covariance = self.hessian / self.rows - torch.outer(mean_hat, mean_hat)
        weight = self.weight.double()
        if recipe.ridge:
            cross = self.cross / self.rows - torch.outer(mean - mean_hat, mean_hat)  # E[(x - x^) x^^T], centred
            damped = covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
            weight = weight + torch.linalg.solve(damped, (weight @ cross).T).T
        hessian = self.hessian / self.rows  # not centred: the mean moves between kinds of photos, the bias cannot follow
        integers, scale = quantize_weight(weight.float(), recipe.weight_bits, recipe.group_size, recipe.rounding, hessian)
        real = integers.double() * scale.double().repeat_interleave(weight.shape[1] // scale.shape[1], 1)
        bias = bias_dynamic = self.bias.double()
        if recipe.bias_correction:
            bias = bias + self.weight.double() @ mean - real @ mean_hat
            bias_dynamic = bias_dynamic + (self.weight.double() - real) @ mean
        return GemmPlan(
            name=name, weight=integers.numpy(), weight_scale=scale.numpy(), weight_bits=recipe.weight_bits,
            bias=bias.float().numpy(), bias_dynamic=bias_dynamic.float().numpy(), input=quantizer,
        )  # fmt: skip
