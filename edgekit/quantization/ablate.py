"""Ablation of the quantization recipe: the plan is made and judged again without each of its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from edgekit.progress import StageProgress
from edgekit.quantization.engine import quantize
from edgekit.quantization.sensitivity import cls_cosine, sqnr_db
from edgekit.quantization.simulate import simulate

if TYPE_CHECKING:
    import numpy as np

    from edgekit.models.vit import VisionTransformer
    from edgekit.recipe import QuantizeRecipe

# what is changed -> fields of QuantizeRecipe; "all of it" is the plain quantizer that other tools start from
WITHOUT: dict[str, dict[str, Any]] = {
    "GPTQ (round to nearest instead)": {"rounding": "rtn"},
    "smoothing of LayerNorm outputs": {"smooth": "off"},
    "token scales of proj and fc2": {"token_scale": False},
    "scale behind GELU": {"fc2_scale": "off"},
    "centred keys": {"centre_keys": False},
    "centred values": {"centre_values": False},
    "balanced values": {"balance_values": False},
    "searched ranges (min-max instead)": {"activation_range": "minmax"},
    "synthetic images": {"synthetic": False},
    "the float patch embedding (int8 instead)": {"patch_embed": "int8"},
    "bias correction": {"bias_correction": False},
    "all of it": {
        "rounding": "rtn",
        "smooth": "off",
        "fc2_scale": "off",
        "centre_keys": False,
        "centre_values": False,
        "balance_values": False,
        "activation_range": "minmax",
        "bias_correction": False,
        "synthetic": False,
        "patch_embed": "int8",
        "token_scale": False,
    },
}
WITH: dict[str, dict[str, Any]] = {
    "ridge correction (ERQ)": {"ridge": True},
    "rotation of the residual stream": {"rotate": "on"},
    "rotation instead of smoothing": {"rotate": "on", "smooth": "off"},
    "token groups": {"token_groups": "on"},
    "7-bit weights": {"overflow": "reduce-range"},
    "integer attention products": {"level": "all"},
}


def ablate(
    model: VisionTransformer,
    calibration: np.ndarray,
    evaluation: np.ndarray,
    recipe: QuantizeRecipe,
    *,
    extras: bool = True,
    progress: StageProgress | None = None,
) -> dict[str, dict[str, float]]:
    """SQNR (dB) and mean CLS cosine of the recipe, of it without each step, and with each that is off by default.

    Args:
        model: baked float model.
        calibration: (n, 3, H, W) pixels.
        evaluation: (m, 3, H, W) pixels, best of another kind.
        recipe: what is varied.
        extras: also with each step that is off by default.
        progress: called with (variant, done, total).

    Returns:
        {"as it is" | "without X" | "with Y": {"sqnr_db", "cls_cosine", "per_token_sqnr_db"}}
    """
    variants: dict[str, dict[str, Any]] = {"as it is": {}}
    variants |= {f"without {k}": v for k, v in WITHOUT.items()}
    variants |= {f"with {k}": v for k, v in WITH.items()} if extras else {}
    pixels = torch.from_numpy(evaluation)
    with torch.no_grad():
        reference = torch.cat([model(batch)[0] for batch in torch.split(pixels, 8)])
    table = {}
    for done, (name, change) in enumerate(variants.items()):
        if progress:
            progress(name, done, len(variants))
        plan = quantize(model, calibration, recipe.model_copy(update=change))
        with torch.no_grad():
            static, dynamic = (
                torch.cat([integer(batch)[0] for batch in torch.split(pixels, 8)])
                for integer in (simulate(plan, kernel="float32", per_token=per_token) for per_token in (False, True))
            )
        table[name] = {
            "sqnr_db": sqnr_db(reference, static),
            "cls_cosine": cls_cosine(static, reference),
            "per_token_sqnr_db": sqnr_db(reference, dynamic),
        }
    return table
