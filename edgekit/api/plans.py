"""`edgekit.quantize`: a model and a few images in, the integers that every format writes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.api.arguments import baked, image_set_of, size_of
from edgekit.pipeline.plans import quantize_recipe
from edgekit.progress import StageProgress
from edgekit.recipe import QuantizeRecipe
from edgekit.settings import validated

if TYPE_CHECKING:
    from torch.nn import Module

    from edgekit.backends.pictures import Picture
    from edgekit.plan.quant import QuantPlan


def quantize(
    model: str | Path | Module,
    images: str | Path | Sequence[Picture] = "demo",
    *,
    bits: float = 8,
    image_size: int | tuple[int, int] = 224,
    samples: int | None = 64,
    seed: int = 0,
    progress: StageProgress | None = None,
    **steps: Any,
) -> QuantPlan:
    """Quantize a model: the integers, scales and zero points that every format writes out.

    Args:
        model: a name of `edgekit models`, the path of a checkpoint, or a live torch module.
        images: for calibration: a folder, "demo", or pictures; at least four. No labels are needed.
        bits: of the weights: 8, 7.5, 7, or 4 in groups of 32 channels.
        image_size: side in pixels, or (height, width): multiples of the model's patch.
        samples: at most this many images.
        seed: of their draw from a folder.
        progress: told (what, done, total) after each matrix product.
        **steps: fields of `edgekit.recipe.QuantizeRecipe`.

    Raises:
        RecipeError: unknown model or step, or an impossible size or number of bits.
        DataError: too few images, or images or checkpoint cannot be read.
        BackendMissing: torch is not installed.

    Examples:
        >>> import edgekit
        >>> plan = edgekit.quantize("vit.safetensors", "photos", bits=8, image_size=70, samples=8)
        >>> sorted(plan.gemms)[:2]
        ['blocks.0.attn.proj', 'blocks.0.attn.qkv']
        >>> plan.gemms["blocks.0.attn.qkv"].weight.dtype
        dtype('int8')
        >>> edgekit.drift("vit.safetensors", plan, "photos").grade
        'excellent'
    """
    from edgekit.quantization.engine import quantize as run

    recipe = validated(QuantizeRecipe, {"weight_bits": bits, **steps}, "impossible steps", command="quantize")
    float_model, transform = baked(model, size_of(image_size))
    shown = image_set_of(images, transform, samples=samples, seed=seed, split="calibration")
    recipe = quantize_recipe(recipe, "int4" if recipe.weight_bits == 4 else "int8")
    return run(float_model, shown.pixel_values, recipe, progress=progress)
