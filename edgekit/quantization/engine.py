"""The quantization engine: a baked float model and calibration pixels in, a QuantPlan out, one block at a time.

Two streams of calibration images run side by side: the exact stream through the float model, and the quantized stream
through what is already integer, so that every GEMM is fitted to the inputs that it will really get. The exact stream is
computed once per block, while its inputs are observed: of these a fit needs the means alone. In order:

1. Hold out an eighth of the images. Fold LayerScale and the attention scale, rotate the residual stream if asked.
2. Make synthetic calibration images; they widen ranges and fit no weights.
3. For each block: observe the GEMM inputs of the exact stream, rewrite the block by exact surgery with parameters read
   off it, and choose the range of each input (`condition`).
4. For each GEMM of the block in the order they run (`stages`): stream the Hessian of its quantized input, round the
   weights by GPTQ, correct the bias (`fit`, `rounding`), and run both streams through it.
5. Save the block (`checkpoint`): a killed run continues with the next one.
6. On the held-out images: promote the most sensitive GEMMs to more bits if asked, and verify the plan (`sensitivity`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.errors import DataError
from edgekit.plan.quant import FloatInput, InputQuantizer, QuantPlan
from edgekit.progress import StageProgress
from edgekit.quantization.attention import plan_products
from edgekit.quantization.checkpoint import Saved, run_digest
from edgekit.quantization.condition import InputChoice, condition, observe
from edgekit.quantization.fit import GemmFit
from edgekit.quantization.ranges import static_input, unlike_folds
from edgekit.quantization.sensitivity import promote, verify
from edgekit.quantization.simulate import IntegerLinear, IntegerMix, fake_quantize, make_integer
from edgekit.quantization.stages import Stage, State, stages_of
from edgekit.quantization.synthetic import synthetic_images
from edgekit.surgery import restore, state_of
from edgekit.surgery.fold_attention_scale import fold_attention_scale
from edgekit.surgery.fold_layerscale import fold_layerscale
from edgekit.surgery.rotate import mean_preserving_rotation, rotate

if TYPE_CHECKING:
    from edgekit.models.vit import Block, VisionTransformer
    from edgekit.recipe import QuantizeRecipe

Inputs = Literal["integer", "float"]
"""What integer weights are multiplied with: quantized activations, or float ones where only weights are to be small."""

BATCH = 8  # images that run together: bounds the activations alive at once
BATCH_PIXELS = BATCH * 518**2  # of them
SYNTHETIC_SHARE = 6  # one synthetic image per 6 real ones
LEAST_SYNTHETIC = 8
KEPT_BYTES = 2**28  # of a feed-forward's hidden values, beyond which they are computed again instead of kept
LEAST_IMAGES = 4  # to calibrate on; one of them is held out
HELD_OUT = 8  # 1 in 8 images is held out of calibration, to verify the plan on


@torch.no_grad()
def quantize(
    model: VisionTransformer,
    pixel_values: np.ndarray | Sequence[np.ndarray],
    recipe: QuantizeRecipe,
    *,
    inputs: Inputs = "integer",
    progress: StageProgress | None = None,
    cache: Path | None = None,
) -> QuantPlan:
    """Quantize a baked model, or one that is not baked for images of several sizes.

    An eighth of the images calibrates nothing: the plan is verified, promotions and "auto" choices are made on it.
    With float inputs there is no range to search and nothing to smooth into the weights: only these are rounded, on
    float activations, and the steps of `recipe` that prepare activations are left out.

    Args:
        model: un-rewritten float model for one image size (`VisionTransformer.bake`), or with its stored table of
            positions where there are several sizes; it is not changed.
        pixel_values: (n, 3, height, width) float32 calibration images, preprocessed as the model wants them; or an
            array of each size, that of the plan's own size first.
        recipe: the steps to take.
        inputs: whether the activations are quantized too.
        progress: called after each GEMM.
        cache: folder that keeps finished blocks, so that a killed run continues where it was.

    Raises:
        DataError: fewer than four calibration images, or their size is not the model's.
    """
    if isinstance(pixel_values, np.ndarray):
        rows, columns = model.config.grid
        size = (rows * model.config.patch, columns * model.config.patch)
        if len(pixel_values) < LEAST_IMAGES or pixel_values.shape[2:] != size:
            raise DataError(
                f"calibration pixels have shape {tuple(pixel_values.shape)}",
                why=f"at least {LEAST_IMAGES} images of {size[0]}x{size[1]} are needed",
                fix="--samples 64",
            )
        seen, unseen = split_images([pixel_values])
    else:
        size = (pixel_values[0].shape[2], pixel_values[0].shape[3])
        seen, unseen = split_images(pixel_values)
        if len(pixel_values[0]) < LEAST_IMAGES:
            raise DataError(
                f"{len(pixel_values[0])} calibration images are of the main size",
                why=f"at least {LEAST_IMAGES} are needed",
                fix="--samples 64",
            )
    reference = [model(batch)[0] for batch in unseen]
    plans = []
    turns = {"off": (False,), "on": (True,), "auto": (False, True)}[recipe.rotate] if inputs == "integer" else (False,)
    for turned in turns:
        plan = _Engine(model, seen, recipe, inputs, turned, progress or (lambda *_: None), cache).run(size)
        plan = promote(plan, unseen, reference, at_most=recipe.promote or 0, max_drop=recipe.max_drop)
        plan.provenance["verification"] = verify(plan, unseen, reference)
        plans.append(plan)
    return max(plans, key=lambda plan: float(plan.provenance["verification"]["sqnr_db"]))


def split_images(arrays: Sequence[np.ndarray]) -> tuple[list[Tensor], list[Tensor]]:
    """Batches of the images to calibrate on, and of those held out: the last eighth of a size that has several."""
    seen, unseen = list[Tensor](), list[Tensor]()
    for array in arrays:
        held_out = max(1, len(array) // HELD_OUT) if len(array) > 1 else 0
        images, most = torch.from_numpy(array), batch_of(*array.shape[2:])
        seen += images[: len(images) - held_out].split(most)
        unseen += images[len(images) - held_out :].split(most) if held_out else ()
    return seen, unseen


def batch_of(height: int, width: int) -> int:
    """Images of that many pixels that run together: `BATCH`, or fewer where these are large."""
    return max(1, min(BATCH, BATCH_PIXELS // (height * width)))


class _Engine:
    """State of one run: the rewritten model, the two streams and the GEMMs finished so far."""

    def __init__(
        self,
        model: VisionTransformer,
        pixels: Sequence[Tensor],
        recipe: QuantizeRecipe,
        inputs: Inputs,
        turned: bool,
        progress: StageProgress,
        cache: Path | None,
    ) -> None:
        self.recipe, self.inputs, self.pixels, self._progress = recipe, inputs, pixels, progress
        self.saved = Saved(cache, run_digest(model, pixels, recipe, inputs, turned))
        features = []
        for done, batch in enumerate(pixels):
            progress("features of the images", done, len(pixels))
            features.append(model(batch)[1])
        self.images = sum(map(len, pixels))
        self.fold = unlike_folds(torch.cat(features))
        self.folds = self.fold.split([len(batch) for batch in pixels])
        needed = recipe.synthetic and inputs == "integer"  # they widen ranges, of which float inputs have none
        self.synthetic = _synthetic(pixels, model.config.patch) if needed else []
        self.model = deepcopy(model)
        fold_layerscale(self.model)
        fold_attention_scale(self.model)
        if turned:
            rotate(self.model, mean_preserving_rotation(model.config.width))
        self.provenance = {"recipe": recipe.model_dump(mode="json"), "rotated": turned, "inputs": {}}
        if inputs == "float":
            self.provenance["activations"] = "float"

    def run(self, size: tuple[int, int]) -> QuantPlan:
        """Quantize what the cache does not hold yet."""
        plan = self.saved.read()
        finished, original = 0, self.model
        if plan is None:
            plan = QuantPlan(self.model.config, size, state_of(self.model), {}, provenance=self.provenance)
            if self.recipe.patch_embed == "int8" and self.inputs == "integer":
                self._patch_embedding(plan)
            else:
                plan.kept_float["patch_embed.proj"] = "pixels are 8-bit already: a second grid costs more than it gains"
        else:
            self.model = restore(plan.config, plan.float_tensors)
            finished = len({name.split(".")[1] for name in plan.gemms if name.startswith("blocks.")})
        self._report(plan, "patch_embed.proj")
        integer = make_integer(deepcopy(self.model), plan, kernel="float32")
        streams = self._streams([self.model.embed(x) for x in self.pixels], [integer.embed(x) for x in self.pixels])
        synthetic = [self.model.embed(batch) for batch in self.synthetic]
        for index, block in enumerate(self.model.blocks):
            if index < finished:
                exact = block if streams.follow else original.blocks[index]  # the one that the first run went through
                streams = self._streams(*streams.through(exact, integer.blocks[index]))
                synthetic = [exact(x) for x in synthetic]
                continue
            self._report(plan, f"blocks.{index} ranges")
            choices, behind = self._choices(block, [*streams.residual(), *synthetic])
            synthetic = behind[len(self.pixels) :]
            self._quantize_block(index, block, choices, plan, streams)
            if not streams.follow:  # the rewrites leave the block's function equal
                streams.exact = [{"x": x} for x in behind[: len(self.pixels)]]
            plan.float_tensors.clear()
            plan.float_tensors.update(state_of(self.model))
            self.saved.write(plan)
        self.saved.remove()
        return plan

    def _streams(self, exact: list[Tensor], quantized: list[Tensor]) -> _Streams:
        """Both streams in front of a block; inside it the exact one is followed where means alone do not say enough."""
        return _Streams.of(exact, quantized, follow=self.inputs == "float" or self.recipe.ridge)

    def _choices(self, block: Block, stream: Sequence[Tensor]) -> tuple[dict[str, InputChoice], list[Tensor]]:
        """The quantizer of each GEMM input of a block, which is rewritten accordingly, and the stream behind it.

        Float inputs have no quantizer, and the stream is left where it is.
        """
        if self.inputs == "float":
            return {}, []
        registers, made = self.model.config.registers, sum(map(len, self.synthetic))
        images = self.images + made
        observed = observe(block, stream, 1 + registers, images, self.images)
        synthetic_fold = torch.arange(made) % 4 < 2  # both kinds in either fold
        folds = torch.cat([self.fold, synthetic_fold])
        choices = condition(block, observed.inputs, observed.mean_key, folds, self.recipe, registers=registers)
        return choices, observed.outputs

    def _report(self, plan: QuantPlan, name: str) -> None:
        self._progress(name, len(plan.gemms), 1 + 4 * len(self.model.blocks))

    def _patch_embedding(self, plan: QuantPlan) -> None:
        """Quantize the patch convolution; pixels have a known range, so nothing needs to be searched.

        At four bits its weights keep eight: it is 1 % of the weights, and its output is in every later sum.
        """
        conv, patch = self.model.patch_embed.proj, self.model.config.patch
        bias = torch.zeros(len(conv.weight)) if conv.bias is None else conv.bias
        least, most = min(float(x.min()) for x in self.pixels), max(float(x.max()) for x in self.pixels)
        quantizer = static_input(least, most)
        fit = GemmFit(conv.weight.flatten(1), bias, ridge=self.recipe.ridge, special=0)  # (D, 3 * patch * patch)
        for batch, fold in zip(self.pixels, self.folds, strict=True):
            rows = torch.nn.functional.unfold(batch, patch, stride=patch).transpose(1, 2)
            fit.update(rows, fake_quantize(quantizer, rows), fold)
        bits = 8 if self.recipe.bits == 4 else self.recipe.bits
        recipe = self.recipe.model_copy(update={"group_size": None, "weight_bits": bits})
        plan.gemms["patch_embed.proj"] = fit.solve("patch_embed.proj", quantizer, recipe)

    def _quantize_block(
        self, index: int, block: Block, choices: dict[str, InputChoice], plan: QuantPlan, streams: _Streams
    ) -> None:
        """Quantize the block's GEMMs in order, and advance both streams to behind the block."""
        name, products = f"blocks.{index}.attn", self.recipe.level == "all" and self.inputs == "integer"
        if products:
            plan.matmuls[name] = plan_products(
                name, block, (block.attn.qkv(block.norm1(x)) for x in streams.residual())
            )
        integer_block = deepcopy(block)
        if products:
            integer_block.attn.products = IntegerMix(plan.matmuls[name], block.attn.scale)
        for stage, integer_stage in zip(stages_of(block), stages_of(integer_block), strict=True):
            name = f"blocks.{index}.{stage.part}"
            choice = choices.get(stage.part)
            quantizer: InputQuantizer = choice.quantizer if choice else FloatInput()
            special = 1 + self.model.config.registers
            fit = GemmFit(stage.linear.weight, stage.linear.bias, ridge=self.recipe.ridge, special=special)
            fit.mean = choice.mean if choice and not streams.follow else None
            inputs = streams.inputs(stage, integer_stage)
            for (exact, quantized), fold in zip(inputs, self.folds, strict=True):
                fit.update(exact, fake_quantize(quantizer, quantized), fold)
            plan.gemms[name] = fit.solve(name, quantizer, self.recipe)
            if choice:
                plan.provenance["inputs"][name] = choice.words()
            linear = IntegerLinear(plan.gemms[name], kernel="float32")
            self._report(plan, name)
            recompute = stage.recompute and streams.bytes_of(stage.linear.out_features) > KEPT_BYTES
            streams.advance(stage.run, partial(integer_stage.through, linear), recompute=recompute)


def _synthetic(pixels: Sequence[Tensor], patch: int) -> list[Tensor]:
    """Batches of synthetic images, of the sizes that photographs have and in proportion to their number."""
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for batch in pixels:
        sizes.setdefault(tuple(batch.shape[2:]), []).append(batch)
    images = sum(map(len, pixels))
    made: list[Tensor] = []
    for batches in sizes.values():
        photographs = torch.cat(batches)
        share = len(photographs) / images
        count = max(round(LEAST_SYNTHETIC * share), int(len(photographs) / SYNTHETIC_SHARE))
        if count:
            made += synthetic_images(photographs, count, patch).split(batch_of(*photographs.shape[2:]))
    return made


Step = Callable[[State], State]


@dataclass
class _Streams:
    """The exact and the quantized stream of the calibration images: a state per batch of each.

    Where the exact one is not followed, it stays in front of a block while the quantized one goes through it.
    """

    exact: list[State]
    quantized: list[State]
    follow: bool
    pending: tuple[Step, Step] | None = None  # the preceding stage to recompute: its outputs are too large to keep

    @classmethod
    def of(cls, exact: Sequence[Tensor], quantized: Sequence[Tensor], *, follow: bool) -> _Streams:
        """The streams in front of a block, from batches (B, N, D) of both."""
        return cls([{"x": x} for x in exact], [{"x": x} for x in quantized], follow)

    def bytes_of(self, channels: int) -> int:
        """Memory of a value of so many channels in every token of the streams that are followed."""
        tokens = sum(state["x"].shape[0] * state["x"].shape[1] for state in self.quantized)
        return 4 * tokens * channels * (2 if self.follow else 1)

    def residual(self) -> list[Tensor]:
        """The exact residual stream, batches (B, N, D)."""
        return [state["x"] for state in self.exact]

    def through(self, block: nn.Module, integer_block: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Both streams behind a finished block."""
        return [block(s["x"]) for s in self.exact], [integer_block(s["x"]) for s in self.quantized]

    def inputs(self, stage: Stage, integer_stage: Stage) -> Iterator[tuple[Tensor | None, Tensor]]:
        """Exact (None where it is not followed) and quantized input of a GEMM, batch by batch."""
        for pair in zip(self.exact, self.quantized, strict=True):
            exact, quantized = self._resumed(*pair)
            yield stage.input(exact) if self.follow else None, integer_stage.input(quantized)

    def advance(self, exact_step: Step, quantized_step: Step, *, recompute: bool) -> None:
        """Take both streams behind a stage; with `recompute` only when they are asked for."""
        if recompute:
            self.pending = exact_step, quantized_step
            return
        for i, pair in enumerate(zip(self.exact, self.quantized, strict=True)):
            exact, quantized = self._resumed(*pair)
            self.quantized[i] = quantized_step(quantized)
            if self.follow:
                self.exact[i] = exact_step(exact)
        self.pending = None

    def _resumed(self, exact: State, quantized: State) -> tuple[State, State]:
        if self.pending is None:
            return exact, quantized
        return self.pending[0](exact) if self.follow else exact, self.pending[1](quantized)
