"""A plain QuantPlan for tests: weights rounded to nearest, static inputs from the range seen on a few images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.base import Backend
from edgekit.backends.source import ExportSource
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import (
    GemmPlan,
    InputQuantizer,
    MatmulPlan,
    PerTokenInput,
    QuantPlan,
    StaticInput,
    TokenGroupInput,
    TokenScaledInput,
    gemm_names,
)
from edgekit.precision import Precision, Variant
from edgekit.quantization.simulate import token_peak
from edgekit.surgery import state_of
from edgekit.surgery.fold_attention_scale import fold_attention_scale
from edgekit.surgery.fold_layerscale import fold_layerscale
from tests.support.pixels import OBLONG


def rtn_plan(
    model: VisionTransformer,
    pixels: Tensor,
    *,
    bits: int = 8,
    group_size: int | None = None,
    inputs: str = "static",
    level: str = "linears",
    keep_float: tuple[str, ...] = (),
    zero_points: bool = False,
) -> QuantPlan:
    """Plan of a baked model calibrated on `pixels` (B, 3, H, W); `inputs` is the kind of every input quantizer."""
    from copy import deepcopy

    model = deepcopy(model)
    fold_layerscale(model)
    fold_attention_scale(model)
    names = [name for name in gemm_names(model.config) if name not in keep_float]
    seen, products = _observe(model, names, pixels)
    state = state_of(model)
    gemms = {}
    for name in names:
        weight = state[f"{name}.weight"].reshape(len(state[f"{name}.weight"]), -1)
        grouped = group_size is not None and weight.shape[1] % group_size == 0
        rounded = (round_above_zero if zero_points else round_weights)(weight, bits, group_size if grouped else None)
        bias = state[f"{name}.bias"]
        is_patches = name == "patch_embed.proj"
        quantizer = _quantizer("static" if is_patches else inputs, seen[name], 1 + model.config.registers)
        gemms[name] = GemmPlan(name, rounded[0], rounded[1], bits, bias, bias, quantizer, *rounded[2:])
    height, width = pixels.shape[-2:]
    return QuantPlan(
        model.config,
        (height, width),
        state,
        gemms,
        matmuls={name: _matmul(name, qkv) for name, qkv in products.items()} if level == "all" else {},
        kept_float={name: "asked for by the test" for name in keep_float},
    )


def round_weights(weight: np.ndarray, bits: int, group_size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric integers (out, in) and scales (out, groups)."""
    out, features = weight.shape
    grouped = weight.reshape(out, -1, group_size or features)
    limit = 2 ** (bits - 1) - 1
    scale = (np.abs(grouped).max(axis=2) / limit).astype(np.float32)
    integers = np.clip(np.rint(grouped / scale[..., None]), -limit, limit)
    return integers.reshape(out, features).astype(np.int8), scale


def round_above_zero(weight: np.ndarray, bits: int, group_size: int | None) -> tuple[np.ndarray, ...]:
    """Integers (out, in) that span each group's range, with scales and zero points (out, groups)."""
    out, features = weight.shape
    grouped = weight.reshape(out, -1, group_size or features)
    low, high = grouped.min(axis=2).clip(max=0), grouped.max(axis=2).clip(min=0)
    scale = ((high - low) / (2**bits - 1)).astype(np.float32)
    zero = np.rint(-low / scale) - 2 ** (bits - 1)
    integers = np.clip(np.rint(grouped / scale[..., None]) + zero[..., None], -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return integers.reshape(out, features).astype(np.int8), scale, zero.astype(np.int8)


def static(values: Tensor) -> StaticInput:
    """uint8 quantizer over the range of `values`, with zero inside."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    scale = float(np.float32((high - low) / 255))
    return StaticInput(scale, round(-low / scale))


def _quantizer(kind: str, values: Tensor, split: int) -> InputQuantizer:
    if kind == "static":
        return static(values)
    if kind == "token_groups":
        return TokenGroupInput(split, static(values[:, :split]), static(values[:, split:]))
    if kind == "token_scaled":
        return TokenScaledInput(static(values / token_peak(values)))
    return PerTokenInput()


def _matmul(name: str, qkv: tuple[Tensor, Tensor, Tensor]) -> MatmulPlan:
    scales = ((x.abs().amax(dim=(0, 2, 3)) / 127).numpy().astype(np.float32) for x in qkv)
    return MatmulPlan(name, *scales)


@torch.no_grad()
def _observe(
    model: VisionTransformer, names: list[str], pixels: Tensor
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor, Tensor]]]:
    """Inputs of the GEMMs, and (q, k, v) of every block, on one forward pass."""
    seen: dict[str, Tensor] = {}
    products: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    hooks = []
    for name in names:
        module: nn.Module = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]})))
    for i, block in enumerate(model.blocks):
        keep = lambda _, __, qkv, block=block, i=i: products.update({f"blocks.{i}.attn": block.attn.split_heads(qkv)})  # noqa: E731
        hooks.append(block.attn.qkv.register_forward_hook(keep))
    model(pixels)
    for hook in hooks:
        hook.remove()
    return seen, products


def export_source(
    model: VisionTransformer, transform: Preprocess, plan: QuantPlan | None = None, *given: Any, **named: Any
) -> ExportSource:
    """Something to export: a tiny model of no licence in particular."""
    return ExportSource(model, transform, plan, "tiny", "MIT", "0" * 64, "digest", *given, **named)


def export_to(
    folder: Path,
    backend: Backend,
    model: VisionTransformer,
    precision: Precision,
    plan: QuantPlan | None = None,
    variant: Variant = "standard",
    **named: Any,
) -> Artifact:
    """The file of a model that is baked for `OBLONG` images, in `folder` under its usual name."""
    source = export_source(model, Preprocess.for_size(*OBLONG), plan, **named)
    return backend.export(source, precision, variant, folder / backend.filename(precision, variant))
