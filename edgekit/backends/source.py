"""Sources of an export: a model with its plan and heads, and the outputs that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from edgekit.artifact import OUTPUT_NAMES, Preprocess, TensorSpec
from edgekit.errors import ExportError
from edgekit.graph.sizes import FREE_GRID, dimension

if TYPE_CHECKING:
    from edgekit.graph.emitter import Grid
    from edgekit.graph.heads import Head
    from edgekit.models.vit import VisionTransformer
    from edgekit.plan.heads import HeadPlan
    from edgekit.plan.quant import QuantPlan


Overflow = Literal["auto", "none", "u8u8", "reduce-range"]
"""Cure for CPUs whose u8*s8 products saturate: "u8u8" stores weights as uint8, "reduce-range" is in the plan already
(7-bit weights), "auto" decides by this CPU."""


@dataclass(frozen=True)
class ExportSource:
    """Input of an export: the baked FP32 model, and the plan when the precision is an integer one.

    `model` takes ImageNet-normalised pixels, or RGB 0..255 when `preprocess.normalize == "graph"` (already folded into
    its patch embedding). `plan` is None for fp32 and fp16. `heads` are further outputs by name.
    `head_plan` has their integers; without one they stay float.
    Where `preprocess.sides` says that images may be of any size, `model` and plan are not baked: their table of
    positions is the stored one.
    `calibration` (n, 3, H, W) are images as the model takes them, for precisions of `Backend.integer_only`.
    """

    model: VisionTransformer
    preprocess: Preprocess
    plan: QuantPlan | None
    model_name: str
    licence: str
    parent_sha256: str
    recipe_digest: str
    overflow: Overflow = "auto"
    heads: Mapping[str, Head] = field(default_factory=dict)
    head_plan: HeadPlan | None = None
    calibration: np.ndarray | None = None

    @property
    def probes(self) -> tuple[tuple[int, int], ...]:
        """Sizes (height, width) at which a float file for any size is compared with torch; () for a baked one."""
        sides, size, patch = self.preprocess.sides, self.preprocess.input_size, self.preprocess.patch
        if sides is None:
            return ()
        return size, self.preprocess.nearest_size(min(sides[0] + patch, sides[1]), size[1])

    @property
    def most_tokens(self) -> int | None:
        """Tokens of the largest image of a file that takes any size; None of a baked one."""
        sides = self.preprocess.sides
        return sides and self.model.config.tokens(sides[1], sides[1])

    @property
    def may_saturate_int16(self) -> bool:
        """Whether sums of two u8*s8 products can overflow int16: some weights use more than 7 bits."""
        assert self.plan is not None
        layers = self.head_plan.layers.values() if self.head_plan else ()
        return any(gemm.weight_bits > 7 for gemm in self.plan.gemms.values()) or any(
            np.abs(layer.weight).max() > 63 for layer in layers
        )

    def mixed_precision_notes(self) -> list[str]:
        """Layers that do not have the file's nominal precision, a sentence each."""
        assert self.plan is not None
        return self.plan.mixed_precision_notes() + (self.head_plan.notes() if self.head_plan else [])


def outputs_of(source: ExportSource) -> tuple[TensorSpec, ...]:
    """The contract's two outputs, then one of each head."""
    config = source.model.config
    tokens = "tokens" if source.preprocess.sides else config.tokens(*source.preprocess.input_size)
    shapes: dict[str, tuple[int | str, ...]] = dict(
        zip(OUTPUT_NAMES, ((tokens, config.width), (config.width,)), strict=True)
    )
    grid = cast("Grid", FREE_GRID) if source.preprocess.sides else config.grid
    shapes |= {name: tuple(map(dimension, head.shape(grid))) for name, head in source.heads.items()}
    said: dict[str, dict[str, Any]]
    said = {name: {"classes": head.classes, "task": head.task} for name, head in source.heads.items()}
    return tuple(
        TensorSpec(name=name, dtype="float32", shape=("batch", *shape), **said.get(name, {}))
        for name, shape in shapes.items()
    )


def folded_tensors(source: ExportSource) -> dict[str, np.ndarray]:
    """`edgekit.surgery.state_of` of the model with LayerScale and attention scale folded: equal, with fewer ops."""
    from copy import deepcopy

    from edgekit.surgery import state_of
    from edgekit.surgery.fold_attention_scale import fold_attention_scale
    from edgekit.surgery.fold_layerscale import fold_layerscale

    model = deepcopy(source.model)
    fold_layerscale(model)
    fold_attention_scale(model)
    return state_of(model)


def rgb_source(source: ExportSource) -> ExportSource:
    """The same model, its plan included, with ImageNet's normalisation folded into the patch embedding: exact.

    Raises:
        ExportError: the patch embedding of the plan is of integers, which stand for normalised pixels.
    """
    from copy import deepcopy

    from edgekit.surgery import restore, state_of
    from edgekit.surgery.fold_normalization import fold_normalization

    given, plan = source.preprocess, source.plan
    if given.normalize == "graph":
        return source
    if plan is not None and "patch_embed.proj" in plan.gemms:
        raise ExportError(
            "the plan's patch embedding is of integers, normalisation cannot be folded into it",
            fix='patch_embed = "float" in the recipe',
        )
    model = deepcopy(source.model)
    fold_normalization(model, given.mean, given.std)
    if plan is not None:
        rewritten = restore(plan.config, plan.float_tensors)
        fold_normalization(rewritten, given.mean, given.std)
        plan = replace(plan, float_tensors=state_of(rewritten))
    preprocess = given.model_copy(update={"normalize": "graph"})
    return replace(source, model=model, plan=plan, preprocess=preprocess)
