"""Which GEMMs cost the most, what a plan costs on images it never saw, and which few GEMMs had better stay float."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgekit.errors import DriftExceeded
from edgekit.quantize.simulate import simulate

if TYPE_CHECKING:
    from edgekit.quantize.plan import QuantPlan

BATCH = 8


@dataclass(frozen=True)
class Sensitivity:
    """What one GEMM costs when it alone is quantized, read at `last_hidden_state` and its CLS token."""

    name: str
    sqnr_db: float
    cls_drop: float


def sqnr_db(actual: Tensor, reference: Tensor) -> float:
    """10 log10 of signal over error power, over all elements."""
    noise = float((actual - reference).double().square().sum())
    return float(10 * torch.log10(reference.double().square().sum() / max(noise, 1e-30)))


def _outputs(plan: QuantPlan, pixels: Tensor, per_token: bool = False) -> Tensor:
    model = simulate(plan, kernel="float32", per_token=per_token)
    return torch.cat([model(batch)[0] for batch in pixels.split(BATCH)])


def cls_cosine(actual: Tensor, reference: Tensor) -> float:
    """Mean cosine of the class tokens of two `last_hidden_state` (n, N, D)."""
    return float(torch.nn.functional.cosine_similarity(actual[:, 0], reference[:, 0]).mean())


@torch.no_grad()
def verify(plan: QuantPlan, pixels: Tensor, reference: Tensor) -> dict[str, float | int]:
    """Drift of the simulated plan on images (n, 3, H, W) whose float output (n, N, D) is `reference`."""
    static, dynamic = (_outputs(plan, pixels, per_token) for per_token in (False, True))
    return {
        "images": len(pixels),
        "sqnr_db": round(sqnr_db(static, reference), 3),
        "cls_cosine": round(cls_cosine(static, reference), 6),
        "per_token_sqnr_db": round(sqnr_db(dynamic, reference), 3),
        "per_token_cls_cosine": round(cls_cosine(dynamic, reference), 6),
    }


@torch.no_grad()
def sensitivity(plan: QuantPlan, pixels: Tensor, reference: Tensor) -> list[Sensitivity]:
    """Each GEMM quantized alone, the costliest first."""
    found = []
    for name, gemm in plan.gemms.items():
        alone = _outputs(replace(plan, gemms={name: gemm}, matmuls={}), pixels)
        found.append(Sensitivity(name, sqnr_db(alone, reference), 1 - cls_cosine(alone, reference)))
    return sorted(found, key=lambda s: s.sqnr_db)


@torch.no_grad()
def promote(plan: QuantPlan, pixels: Tensor, reference: Tensor, *, at_most: int, max_drop: float | None) -> QuantPlan:
    """Keep the costliest GEMMs float, one by one, until the mean CLS cosine drops by no more than `max_drop`.

    Args:
        plan: what the engine made.
        pixels: (n, 3, H, W) images that calibration never saw.
        reference: (n, N, D) float output on them.
        at_most: promotions allowed; with `max_drop` None all of them are spent.
        max_drop: 1 - mean CLS cosine to reach.

    Raises:
        DriftExceeded: `max_drop` is not reached with the promotions allowed.
    """
    drop = 1 - cls_cosine(_outputs(plan, pixels), reference)
    if max_drop is not None and drop <= max_drop:
        return plan
    ranked = sensitivity(plan, pixels, reference)[:at_most] if at_most else []
    for worst in ranked:
        gemms = {name: gemm for name, gemm in plan.gemms.items() if name != worst.name}
        reason = f"promoted: quantized alone it leaves {worst.sqnr_db:.1f} dB"
        plan = replace(plan, gemms=gemms, kept_float=plan.kept_float | {worst.name: reason})
        drop = 1 - cls_cosine(_outputs(plan, pixels), reference)
        if max_drop is not None and drop <= max_drop:
            break
    if max_drop is not None and drop > max_drop:
        raise DriftExceeded(f"the CLS cosine drops by {drop:.2e} with {len(ranked)} GEMMs kept float",
                            why=f"{max_drop:.2e} was asked for", fix="--max-drop with a larger value")  # fmt: skip
    return plan
