"""Sources of a plan's drift: which GEMM, which block and token kind, weights or inputs, which channel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgekit.plan.quant import FloatInput, QuantPlan
from edgekit.progress import StageProgress
from edgekit.quantization.explanation import BlockDrift, Explanation, GemmDrift, LayerDrift
from edgekit.quantization.sensitivity import sqnr_db
from edgekit.quantization.simulate import fake_quantize, simulate
from edgekit.surgery import restore

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer

BATCH = 8
SATURATED_IMAGES = 1  # emulating a saturating kernel is slow


@torch.no_grad()
def explain(
    plan: QuantPlan, pixels: Tensor, *, saturation: bool = True, progress: StageProgress | None = None
) -> Explanation:
    """Take a plan apart.

    Args:
        plan: its float tensors are the reference, so no checkpoint is needed.
        pixels: (n, 3, H, W) images, best not those of calibration.
        saturation: emulate the saturating kernel too (a minute for a ViT-S at 224).
        progress: called with (what, done, total).
    """
    report = progress or (lambda *_: None)
    exact_model = restore(plan.config, plan.float_tensors)
    exact, exact_blocks = _with_blocks(exact_model, pixels)
    whole, whole_blocks = _with_blocks(simulate(plan, kernel="float32"), pixels)

    def measured(model: VisionTransformer) -> float:
        return sqnr_db(exact, _run(model, pixels))

    abs_max = _input_abs_max(exact_model, plan, pixels)
    parts = [*plan.gemms, *plan.matmuls]
    gemms = []
    for done, name in enumerate(parts):
        report(f"each GEMM alone: {name}", done, len(parts))
        alone = replace(
            plan,
            gemms={k: g for k, g in plan.gemms.items() if k == name},
            matmuls={k: m for k, m in plan.matmuls.items() if k == name},
        )
        gemms.append((name, measured(simulate(alone, kernel="float32"))))
    report("the whole plan", len(parts), len(parts))
    noise = {name: 10 ** (-db / 10) for name, db in gemms}
    saturating = None
    floating = all(isinstance(gemm.input, FloatInput) for gemm in plan.gemms.values())
    if saturation and not floating:
        report("a CPU that saturates", 0, 0)
        first = pixels[:SATURATED_IMAGES]
        saturating = sqnr_db(exact[: len(first)], _run(simulate(plan, kernel="pmaddubsw"), first))
    return Explanation(
        images=len(pixels),
        whole_db=sqnr_db(exact, whole),
        per_token_db=measured(simulate(plan, kernel="float32", per_token=True)),
        weights_only_db=measured(_weights_only(plan)),
        inputs_only_db=None if floating else measured(_inputs_only(plan)),
        saturating_db=saturating,
        gemms=tuple(
            GemmDrift(
                name=name, sqnr_db=db, noise_share=noise[name] / sum(noise.values()), **_input_of(plan, name, abs_max)
            )
            for name, db in sorted(gemms, key=lambda row: row[1])
        ),
        blocks=_block_drifts(whole_blocks, exact_blocks, plan.config.registers),
        kept_float=plan.kept_float,
        promoted=plan.promoted,
    )


@torch.no_grad()
def layer_drift(plan: QuantPlan, pixels: Tensor) -> LayerDrift:
    """The drift behind every block, with all GEMMs integer: two runs of the images, where `explain` takes dozens.

    Args:
        plan: its float tensors are the reference, so no checkpoint is needed.
        pixels: (n, 3, H, W) images.
    """
    _, exact = _with_blocks(restore(plan.config, plan.float_tensors), pixels)
    _, ours = _with_blocks(simulate(plan, kernel="float32"), pixels)
    return LayerDrift(images=len(pixels), blocks=_block_drifts(ours, exact, plan.config.registers))


def _run(model: VisionTransformer, pixels: Tensor) -> Tensor:
    return torch.cat([model(batch)[0] for batch in torch.split(pixels, BATCH)])


def _with_blocks(model: VisionTransformer, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output (n, N, D), and the residual stream behind every block."""
    seen: list[list[Tensor]] = [[] for _ in model.blocks]
    hooks = [
        block.register_forward_hook(lambda _, __, y, kept=kept: kept.append(y))
        for block, kept in zip(model.blocks, seen, strict=True)
    ]
    output = _run(model, pixels)
    for hook in hooks:
        hook.remove()
    return output, [torch.cat(kept) for kept in seen]


def _weights_only(plan: QuantPlan) -> VisionTransformer:
    """Integer weights, float inputs."""
    model = restore(plan.config, plan.float_tensors).requires_grad_(False)
    for name, gemm in plan.gemms.items():
        module: Any = model.get_submodule(name)
        module.weight.copy_(torch.from_numpy(gemm.dequantized()).view_as(module.weight))
        module.bias.copy_(torch.from_numpy(gemm.bias_dynamic))
    return model


def _inputs_only(plan: QuantPlan) -> VisionTransformer:
    """Float weights, quantized inputs."""
    model = restore(plan.config, plan.float_tensors)
    for name, gemm in plan.gemms.items():
        quantizer = gemm.input  # the patch convolution's input is an image: one static range, whatever its shape
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, q=quantizer: (fake_quantize(q, args[0]),))
    return model


def _input_abs_max(model: VisionTransformer, plan: QuantPlan, pixels: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """The input abs-max per GEMM: of each channel (K,) and of each token (N,) over all images."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, x: Tensor) -> None:
        channel, token = x.abs().amax((0, 1)), x.abs().amax((0, 2))
        if name in found:
            channel, token = torch.maximum(channel, found[name][0]), torch.maximum(token, found[name][1])
        found[name] = channel, token

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: look(name, args[0]))
        for name in plan.gemms
        if name != "patch_embed.proj"
    ]
    _run(model, pixels)
    for hook in hooks:
        hook.remove()
    return found


def _input_of(plan: QuantPlan, name: str, abs_max: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    if name not in plan.gemms:
        return {"input_kind": "int8 per head"}
    row: dict[str, Any] = {"input_kind": plan.gemms[name].input.kind}
    if name in abs_max:
        channel, token = abs_max[name]
        row |= {
            "input_peak": float(channel.max()),
            "peak_channel": int(channel.argmax()),
            "peak_token": _token_name(int(token.argmax()), plan.config.registers),
            "peak_over_median": float(channel.max() / channel.median().clamp(min=1e-12)),
        }
    if chosen := plan.provenance.get("inputs", {}).get(name):
        row |= {"before": chosen["peak"] / max(chosen["typical"], 1e-12), "alpha": chosen["alpha"]}
    return row


def _token_name(index: int, registers: int) -> str:
    if index == 0:
        return "class"
    return f"register {index}" if index <= registers else f"patch {index - 1 - registers}"


def _block_drifts(actual: list[Tensor], exact: list[Tensor], registers: int) -> tuple[BlockDrift, ...]:
    pairs = enumerate(zip(actual, exact, strict=True))
    return tuple(_block_drift(i, ours, theirs, registers) for i, (ours, theirs) in pairs)


def _block_drift(index: int, actual: Tensor, exact: Tensor, registers: int) -> BlockDrift:
    first = 1 + registers
    return BlockDrift(
        block=index,
        all_db=sqnr_db(exact, actual),
        class_db=sqnr_db(exact[:, 0], actual[:, 0]),
        register_db=sqnr_db(exact[:, 1:first], actual[:, 1:first]) if registers else None,
        patch_db=sqnr_db(exact[:, first:], actual[:, first:]),
    )
