"""Sensitivity per GEMM, verification of a plan on held-out images, and mixed precision for the costliest GEMMs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.errors import DriftExceeded
from edgekit.metrics import decibel
from edgekit.quantization.rounding import quantize_weight
from edgekit.quantization.simulate import simulate

if TYPE_CHECKING:
    from edgekit.plan.quant import QuantPlan

Images = Tensor | Sequence[Tensor]  # of one size, or batches of any sizes
BATCH = 8
RANKING = 8  # images on which GEMMs are ranked: each of them costs a run of the model per GEMM
PROMOTABLE_BITS = 4  # weights of so many bits become 8-bit ones, wider ones float


@dataclass(frozen=True)
class Sensitivity:
    """Drift of one GEMM quantized alone, read at `last_hidden_state` and its CLS token."""

    name: str
    sqnr_db: float
    cls_drop: float


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """`edgekit.metrics.sqnr_db` of two tensors, without a copy to numpy."""
    noise = float((other - reference).double().square().sum())
    return decibel(float(reference.double().square().sum()), noise)


def _outputs(plan: QuantPlan, batches: Sequence[Tensor], per_token: bool = False) -> list[Tensor]:
    model = simulate(plan, kernel="float32", per_token=per_token)
    return [model(batch)[0] for batch in batches]


def _drift(reference: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[float, float]:
    """SQNR in dB, and the mean cosine of the class tokens, of batches (B, N, D) of any sizes."""
    whole, other = (torch.cat([batch.flatten() for batch in each]) for each in (reference, outputs))
    cls, other_cls = (torch.cat([batch[:, :1] for batch in each]) for each in (reference, outputs))
    return sqnr_db(whole, other), cls_cosine(other_cls, cls)


def cls_cosine(actual: Tensor, reference: Tensor) -> float:
    """Mean cosine of the class tokens of two `last_hidden_state` (n, N, D)."""
    return float(torch.nn.functional.cosine_similarity(actual[:, 0], reference[:, 0]).mean())


@torch.no_grad()
def verify(plan: QuantPlan, pixels: Images, reference: Images) -> dict[str, float | int]:
    """Drift of the simulated plan on images (n, 3, H, W) whose float output (n, N, D) is `reference`, or on batches."""
    batches, wanted = in_batches(pixels), in_batches(reference)
    (static, static_cls), (dynamic, dynamic_cls) = (
        _drift(wanted, _outputs(plan, batches, per_token)) for per_token in (False, True)
    )
    return {
        "images": sum(map(len, batches)),
        "sqnr_db": round(static, 3),
        "cls_cosine": round(static_cls, 6),
        "per_token_sqnr_db": round(dynamic, 3),
        "per_token_cls_cosine": round(dynamic_cls, 6),
    }


@torch.no_grad()
def sensitivity(plan: QuantPlan, pixels: Images, reference: Images) -> list[Sensitivity]:
    """Each GEMM quantized alone, the costliest first."""
    found = []
    batches, wanted = in_batches(pixels), in_batches(reference)
    for name, gemm in plan.gemms.items():
        noise, cosine = _drift(wanted, _outputs(replace(plan, gemms={name: gemm}, matmuls={}), batches))
        found.append(Sensitivity(name, noise, 1 - cosine))
    return sorted(found, key=lambda s: s.sqnr_db)


@torch.no_grad()
def promote(plan: QuantPlan, pixels: Images, reference: Images, *, at_most: int, max_drop: float | None) -> QuantPlan:
    """Mixed precision: more bits for the costliest GEMMs, one by one, until the CLS cosine drops by at most `max_drop`.

    One of 4-bit weights gets 8 bits, which every format can hold beside them; one of 7 or 8 bits stays float.

    Args:
        plan: what the engine made.
        pixels: (n, 3, H, W) images that calibration never saw, or batches of them.
        reference: (n, N, D) float output on them, in the same batches.
        at_most: promotions allowed; with `max_drop` None all of them are spent.
        max_drop: 1 - mean CLS cosine to reach.

    Raises:
        DriftExceeded: `max_drop` is not reached with the promotions allowed.
    """
    if not at_most and max_drop is None:
        return plan
    batches, wanted = in_batches(pixels), in_batches(reference)

    def measured() -> float:
        return 1 - _drift(wanted, _outputs(plan, batches))[1]

    drop = measured()
    if max_drop is not None and drop <= max_drop:
        return plan
    ranked = sensitivity(plan, *_first(batches, wanted))[:at_most] if at_most else []
    for worst in ranked:
        plan = _promoted(plan, worst)
        drop = measured()
        if max_drop is not None and drop <= max_drop:
            break
    if max_drop is not None and drop > max_drop:
        raise DriftExceeded(
            f"the CLS cosine drops by {drop:.2e} with {len(ranked)} GEMMs promoted",
            why=f"{max_drop:.2e} was asked for",
            fix="--max-drop with a larger value",
        )
    return plan


def in_batches(images: Images) -> Sequence[Tensor]:
    """Batches of images, or of what was computed of them; batches as they are."""
    return images.split(BATCH) if isinstance(images, Tensor) else images


def _first(batches: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The first `RANKING` images of batches, and their references."""
    left, images, references = RANKING, list[Tensor](), list[Tensor]()
    for batch, reference in zip(batches, wanted, strict=True):
        if left > 0:
            images.append(batch[:left])
            references.append(reference[:left])
            left -= len(batch)
    return images, references


def _promoted(plan: QuantPlan, worst: Sensitivity) -> QuantPlan:
    gemm, reason = plan.gemms[worst.name], f"promoted: quantized alone it leaves {worst.sqnr_db:.1f} dB"
    if gemm.weight_bits > PROMOTABLE_BITS:
        gemms = {name: each for name, each in plan.gemms.items() if name != worst.name}
        return replace(plan, gemms=gemms, kept_float=plan.kept_float | {worst.name: reason})
    weight = torch.from_numpy(plan.float_tensors[f"{worst.name}.weight"]).flatten(1)
    rounded = quantize_weight(weight, 8, None, "mse", torch.eye(weight.shape[1]))
    bias = plan.float_tensors[f"{worst.name}.bias"]  # the corrections of both others are to 4-bit weights
    wider = replace(
        gemm,
        weight=rounded.integers.numpy(),
        weight_scale=rounded.scale.numpy(),
        weight_zero_point=None,
        weight_bits=8,
        bias=bias,
        bias_dynamic=bias,
    )
    promoted = plan.provenance.get("promoted", {}) | {worst.name: reason}
    return replace(plan, gemms=plan.gemms | {worst.name: wider}, provenance=plan.provenance | {"promoted": promoted})
