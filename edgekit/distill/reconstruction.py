"""Block reconstruction: a plan's integers are trained to give the float model's features again, without labels.

Block by block, and then all blocks together, the quantized model is distilled from the float one: rounding is learned
with the straight-through estimator (arXiv 1308.3432), weight and input steps as in LSQ (arXiv 1902.08153), blocks in
turn as in BRECQ (arXiv 2102.05426). What comes out is an ordinary QuantPlan with the same surgery.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.distill.views import views
from edgekit.errors import DataError
from edgekit.plan.quant import (
    FloatInput,
    GemmPlan,
    InputQuantizer,
    PerTokenInput,
    QuantPlan,
    StaticInput,
    TokenGroupInput,
    TokenScaledInput,
)
from edgekit.progress import StageProgress
from edgekit.quantization.rounding import weight_limit
from edgekit.quantization.sensitivity import verify
from edgekit.quantization.simulate import per_token_scale, token_peak
from edgekit.surgery import restore

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig
    from edgekit.models.vit import Block, VisionTransformer


BATCH = 8  # images per training step
VIEWS = 1600  # images and views of them that blocks learn from, as far as their residual stream has room
STREAM_BYTES = 2**30
HELD_OUT = 8  # one image in so many trains nothing and judges


@dataclass(frozen=True)
class ReconstructionRecipe:
    """Steps and learning rates of a block reconstruction.

    Rates are of weights in steps of their grid, of scales in their logarithm, of biases in norms of their weight rows;
    scales and biases learn at `end_share` of them end to end.
    """

    block_steps: int = 500
    end_steps: int = 100
    weight_rate: float = 1.5e-3
    scale_rate: float = 7e-3
    bias_rate: float = 2e-4
    end_share: float = 0.014  # 150 steps of it behind trained blocks changed nothing above the noise
    class_share: float = 0.1  # weight of the class token's own error, which is one token's among hundreds otherwise
    seed: int = 0


def reconstruct(
    plan: QuantPlan,
    pixel_values: np.ndarray,
    recipe: ReconstructionRecipe = ReconstructionRecipe(),
    progress: StageProgress | None = None,
) -> QuantPlan:
    """Train the integers, scales and biases of `plan`; the float tensors stay.

    Keeps whichever is better on the eighth of the images that trained nothing: the given plan, the plan after the
    block-wise part, or the plan after the end-to-end part. Blocks learn from random views of the images as well, some
    `VIEWS` in all. Memory: three residual streams of the views, `STREAM_BYTES` each at most unless the images alone are
    more, and the gradients of one block (of all blocks for `BATCH` images in the end-to-end part).

    Args:
        plan: of the engine; static, token-group or per-token inputs.
        pixel_values: (n, 3, H, W) images, no labels.
        recipe: how long and how fast.
        progress: called with (what, steps done, steps in all).

    Raises:
        DataError: fewer than eight images.
    """
    if len(pixel_values) < HELD_OUT:
        raise DataError(f"{len(pixel_values)} images are too few for block reconstruction", fix="--samples 64")
    report = progress or (lambda *_: None)
    held_out = len(pixel_values) // HELD_OUT
    pixels, unseen = torch.from_numpy(pixel_values[:-held_out]), torch.from_numpy(pixel_values[-held_out:])
    exact = restore(plan.config, plan.float_tensors)
    with torch.no_grad():
        reference = torch.cat([exact(batch)[0] for batch in torch.split(unseen, BATCH)])
        means = _input_means(exact, plan, pixels)
    student = _student(plan)
    generator = torch.Generator().manual_seed(recipe.seed)
    candidates = [plan]
    total = recipe.block_steps * len(exact.blocks) + recipe.end_steps
    more = torch.cat([pixels, *(views(pixels, generator) for _ in range(_rounds_of_views(plan.config, len(pixels))))])
    _train_blocks(exact, student, more, recipe, generator, lambda name, done: report(name, done, total))
    candidates.append(_written(plan, student, exact, means))
    if recipe.end_steps:
        _train_whole(
            exact,
            student,
            pixels,
            recipe,
            generator,
            lambda done: report("all blocks", total - recipe.end_steps + done, total),
        )
        candidates.append(_written(plan, student, exact, means))
    verified = [verify(each, unseen, reference) for each in candidates]
    best = max(range(len(candidates)), key=lambda i: float(verified[i]["sqnr_db"]))
    trained = {
        "recovery": ("none helped", "block-wise", "end-to-end")[best],
        "verification": verified[best],
        "before_recovery": verified[0],
    }
    return replace(candidates[best], provenance=plan.provenance | trained)


class LearnedLinear(nn.Module):
    """A GEMM whose integer weights, scales, bias and input steps are learned through straight-through rounding."""

    def __init__(self, gemm: GemmPlan, original: Tensor) -> None:
        """Start at the plan's integers, as near to the `original` weights (out, K) as their cells allow."""
        super().__init__()
        self.quantizer, self.limit = gemm.input, weight_limit(gemm.weight_bits)
        scale, group = torch.from_numpy(gemm.weight_scale), gemm.group_size
        integers, self.zero_points = torch.from_numpy(gemm.weight).float(), torch.from_numpy(gemm.zero_points()).float()
        self.least = -self.limit if gemm.weight_zero_point is None else -self.limit - 1
        wanted = original / scale.repeat_interleave(group, 1) + self.zero_points
        self.cells = nn.Parameter(torch.clamp(wanted, integers - 0.49, integers + 0.49))  # (out, K), in steps
        self.log_scale = nn.Parameter(scale.log())  # (out, groups)
        self.group = group
        self.bias_start = torch.from_numpy(gemm.bias)
        self.bias_unit = original.norm(dim=1)  # (out,): folded LayerScale makes some outputs thousands of times smaller
        self.bias_change = nn.Parameter(torch.zeros_like(self.bias_start))
        self.log_input = nn.Parameter(torch.tensor([q.scale for q in _static_parts(gemm.input)]).log())

    def integers(self) -> Tensor:
        """Rounded weights (out, K) within their bits; differentiable as the identity inside the range."""
        return _round(self.cells.clamp(self.least, self.limit))

    def weight(self) -> Tensor:
        """Dequantized weights (out, K)."""
        return (self.integers() - self.zero_points) * self.log_scale.exp().repeat_interleave(self.group, 1)

    @property
    def bias(self) -> Tensor:
        """The bias (out,), learned in units of each output's own size."""
        return self.bias_start + self.bias_change * self.bias_unit

    def forward(self, x: Tensor) -> Tensor:
        """The GEMM with fake-quantized input and weights: (B, N, K) -> (B, N, out)."""
        return nn.functional.linear(self._quantized(x), self.weight(), self.bias)

    def _quantized(self, x: Tensor) -> Tensor:
        parts = _static_parts(self.quantizer)
        steps = self.log_input.exp()
        if isinstance(self.quantizer, TokenGroupInput):
            head, tail = x[:, : self.quantizer.split], x[:, self.quantizer.split :]
            return torch.cat(
                [_fake(head, steps[0], parts[0].zero_point), _fake(tail, steps[1], parts[1].zero_point)], 1
            )
        if isinstance(self.quantizer, TokenScaledInput):
            peak = token_peak(x)
            return _fake(x / peak, steps[0], parts[0].zero_point) * peak
        if isinstance(self.quantizer, FloatInput):
            return x
        if parts:
            return _fake(x, steps[0], parts[0].zero_point)
        scale, zero = per_token_scale(x.detach())
        return _fake(x, scale, zero)

    def planned(self, gemm: GemmPlan, bias_dynamic: Tensor) -> GemmPlan:
        """The learned integers, scales and bias as a GemmPlan."""
        steps = [float(step) for step in self.log_input.exp()]
        match gemm.input:
            case StaticInput():
                quantizer: InputQuantizer = replace(gemm.input, scale=steps[0])
            case TokenGroupInput(_, head, tail):
                quantizer = replace(gemm.input, head=replace(head, scale=steps[0]), tail=replace(tail, scale=steps[1]))
            case TokenScaledInput(quotient):
                quantizer = TokenScaledInput(replace(quotient, scale=steps[0]))
            case PerTokenInput() | FloatInput():
                quantizer = gemm.input
        bias = self.bias.numpy().copy()
        dynamic = bias if isinstance(gemm.input, FloatInput) else bias_dynamic.float().numpy()
        return replace(
            gemm,
            weight=self.integers().to(torch.int8).numpy(),
            weight_scale=self.log_scale.exp().numpy(),
            bias=bias,
            bias_dynamic=dynamic,
            input=quantizer,
        )


def _static_parts(quantizer: InputQuantizer) -> tuple[StaticInput, ...]:
    match quantizer:
        case StaticInput():
            return (quantizer,)
        case TokenGroupInput(_, head, tail):
            return (head, tail)
        case TokenScaledInput(quotient):
            return (quotient,)
        case PerTokenInput() | FloatInput():
            return ()


def _round(x: Tensor) -> Tensor:
    """Round half to even; the gradient passes as if nothing had happened."""
    return x + (torch.round(x) - x).detach()


def _fake(x: Tensor, scale: Tensor, zero: int | Tensor) -> Tensor:
    """Fake quantization to uint8, differentiable in x (inside the range) and in the scale."""
    return (torch.clamp(_round(x / scale) + zero, 0, 255) - zero) * scale


def _student(plan: QuantPlan) -> VisionTransformer:
    """The rewritten float model with learned GEMMs in its blocks; the patch embedding keeps its integers."""
    student = restore(plan.config, plan.float_tensors)
    for name, gemm in plan.gemms.items():
        parent, _, leaf = name.rpartition(".")
        if name == "patch_embed.proj":
            module: Any = student.patch_embed.proj
            module.weight.data.copy_(torch.from_numpy(gemm.dequantized()).view_as(module.weight))
            module.bias.data.copy_(torch.from_numpy(gemm.bias))
        else:
            holder: Any = student.get_submodule(parent)
            setattr(holder, leaf, LearnedLinear(gemm, getattr(holder, leaf).weight.detach()))
    return student


def _learned(module: nn.Module) -> list[LearnedLinear]:
    return [each for each in module.modules() if isinstance(each, LearnedLinear)]


def _integers(module: nn.Module, recipe: ReconstructionRecipe) -> dict[str, Any]:
    return {"params": [each.cells for each in _learned(module)], "lr": recipe.weight_rate}


def _scales_and_biases(module: nn.Module, recipe: ReconstructionRecipe, share: float = 1.0) -> list[dict[str, Any]]:
    learned = _learned(module)
    scales = [p for each in learned for p in (each.log_scale, each.log_input)]
    biases = [each.bias_change for each in learned]
    return [{"params": scales, "lr": share * recipe.scale_rate}, {"params": biases, "lr": share * recipe.bias_rate}]


def _optimise(
    groups: list[dict[str, Any]],
    loss_of: Callable[[Tensor], Tensor],
    images: int,
    steps: int,
    generator: torch.Generator,
    report: Callable[[int], None],
) -> None:
    """Adam with a cosine schedule on random batches of image indices.

    The loss is divided by what it was at first: a gradient per weight of some 1e-9 would drown in Adam's epsilon.
    """
    first = 0.0
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    for step in range(steps):
        chosen = torch.randperm(images, generator=generator)[:BATCH]
        with torch.enable_grad():
            loss = loss_of(chosen)
            first = first or float(loss.detach()) or 1.0
            loss = loss / first
        gradients = torch.autograd.grad(loss, [p for group in groups for p in group["params"]], allow_unused=True)
        for parameter, gradient in zip((p for group in groups for p in group["params"]), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
        report(step + 1)


def _rounds_of_views(config: ViTConfig, images: int) -> int:
    """Number of augmented views per image, at least one."""
    height, width = (side * config.patch for side in config.grid)
    bytes_each = 4 * config.width * config.tokens(height, width)
    return max(1, min(VIEWS, STREAM_BYTES // bytes_each) // images - 1)


def _train_blocks(
    exact: VisionTransformer,
    student: VisionTransformer,
    pixels: Tensor,
    recipe: ReconstructionRecipe,
    generator: torch.Generator,
    report: Callable[[str, int], None],
) -> None:
    """Train each block to give the float block's output from the output of the quantized blocks before it."""
    with torch.no_grad():
        target, given = (torch.cat([m.embed(b) for b in torch.split(pixels, BATCH)]) for m in (exact, student))
    for index, (float_block, block) in enumerate(zip(exact.blocks, student.blocks, strict=True)):
        with torch.no_grad():
            target = _through(float_block, target)
        inputs, outputs = given, target

        def loss_of(chosen: Tensor, block: Block = block, x: Tensor = inputs, y: Tensor = outputs) -> Tensor:
            return _distance(block(x[chosen]), y[chosen], recipe.class_share)

        def report_step(step: int, index: int = index) -> None:
            report(f"block {index}", index * recipe.block_steps + step)

        groups = [_integers(block, recipe), *_scales_and_biases(block, recipe)]
        _optimise(groups, loss_of, len(pixels), recipe.block_steps, generator, report_step)
        with torch.no_grad():
            given = _through(block, given)


def _train_whole(
    exact: VisionTransformer,
    student: VisionTransformer,
    pixels: Tensor,
    recipe: ReconstructionRecipe,
    generator: torch.Generator,
    report: Callable[[int], None],
) -> None:
    """Train all blocks together on the final features of new views in every step.

    Scales and biases only. Trained blocks leave many weights half way between two integers, and an optimiser that
    moves all of them alike turns these over together: within 40 steps a fiftieth of them, and ten decibels are gone.
    """

    def loss_of(chosen: Tensor) -> Tensor:
        x = views(pixels[chosen], generator)
        with torch.no_grad():
            target = exact(x)[0]
        return _distance(student(x)[0], target, recipe.class_share)

    groups = _scales_and_biases(student, recipe, recipe.end_share)
    _optimise(groups, loss_of, len(pixels), recipe.end_steps, generator, report)


def _distance(actual: Tensor, wanted: Tensor, class_share: float) -> Tensor:
    """Mean squared error of all tokens (B, N, D), and that of the class token with a weight of its own."""
    errors = (actual - wanted).square()
    return errors.mean() + class_share * errors[:, 0].mean()


def _through(block: nn.Module, stream: Tensor) -> Tensor:
    return torch.cat([block(x) for x in torch.split(stream, BATCH)])


def _input_means(model: VisionTransformer, plan: QuantPlan, pixels: Tensor) -> dict[str, Tensor]:
    """Mean input (K,) of every GEMM of the float model's blocks."""
    sums: dict[str, Tensor] = {}

    def add(name: str, x: Tensor) -> None:
        sums[name] = sums.get(name, 0) + x.double().mean((0, 1)) * len(x)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: add(name, args[0]))
        for name in plan.gemms
        if name != "patch_embed.proj"
    ]
    for batch in torch.split(pixels, BATCH):
        model(batch)
    for hook in hooks:
        hook.remove()
    return {name: total / len(pixels) for name, total in sums.items()}


@torch.no_grad()
def _written(
    plan: QuantPlan, student: VisionTransformer, exact: VisionTransformer, means: dict[str, Tensor]
) -> QuantPlan:
    """The plan with the learned GEMMs; `bias_dynamic` makes up for the mean that the new integers shift."""
    gemms = dict(plan.gemms)
    for name, mean in means.items():
        learned = cast(LearnedLinear, student.get_submodule(name))
        original = cast(nn.Linear, exact.get_submodule(name))
        bias_dynamic = original.bias.double() + (original.weight.double() - learned.weight().double()) @ mean
        gemms[name] = learned.planned(plan.gemms[name], bias_dynamic)
    return replace(plan, gemms=gemms, provenance=deepcopy(plan.provenance))
