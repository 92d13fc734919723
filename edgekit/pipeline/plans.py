"""Kinds of quantization plans: bits of the weights, and number type of the activations they are multiplied with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from edgekit.backends import get_backend
from edgekit.files import sealed, sha256_of
from edgekit.plan.heads import HeadPlan
from edgekit.plan.quant import QuantPlan
from edgekit.precision import FACTS

if TYPE_CHECKING:
    from edgekit.pipeline.jobs import Job, Size
    from edgekit.quantization.engine import Inputs
    from edgekit.recipe import QuantizeRecipe

PlanKind = Literal["int8", "int8_weights", "int4", "int4_symmetric", "int4_weights"]
"""Bits of the weights; "weights" when activations stay float and nothing of theirs is smoothed into the weights;
"symmetric" when each group has as many steps below zero as above it."""
KINDS: tuple[PlanKind, ...] = get_args(PlanKind)
PLANS = "plan"  # folder inside a build folder
_W4_GROUP = 32  # input channels per scale of 4-bit weights, unless the recipe says otherwise
_W4_PROMOTED = 3  # of the 48 GEMMs of a ViT-S or ViT-B get 8 bits, unless the recipe says otherwise


@dataclass(frozen=True)
class PlanFile:
    """A plan in a build folder, of `kind`: `key` gives the one that it must have, `make` makes it where it must."""

    path: Path
    kind: type[QuantPlan | HeadPlan]
    key: Callable[[], str]
    make: Callable[[], object]

    def is_damaged(self) -> bool:
        """Whether it is not what its digest says, or not the plan of its key; it is not loaded."""
        return bool(sealed(self.path)) or self.kind.key_in(self.path) != self.key()

    def is_another(self, sha256: str) -> bool:
        """Whether it is whole by its own digest, and yet another file than that of `sha256`."""
        return not sealed(self.path) and sha256_of(self.path) != sha256


def kind_of(job: Job, recipe: QuantizeRecipe) -> PlanKind:
    """The plan for an integer artifact.

    Beside activations of 16 bits only the weights' rounding counts, as beside float ones. Blocks of 4-bit weights have
    no zero points where the format has none.
    """
    facts = FACTS[job.precision]
    if facts.weight_bits == 4:
        if recipe.zero_points and not get_backend(job.format).weight_zero_points:
            return "int4_symmetric"
        return "int4_weights" if facts.weight_only else "int4"
    return "int8" if facts.activations == "int8" else "int8_weights"


def plan_file(kind: str, size: Size | None, main: Size) -> str:
    """plan/<kind>.safetensors inside a build folder, with the size unless it is the main one or any (None)."""
    suffix = "" if size in (main, None) else f"_{size[0]}x{size[1]}"
    return f"{PLANS}/{kind}{suffix}.safetensors"


def main_plan(out: Path) -> Path | None:
    """The plan that `edgekit explain OUT` is about: of w8a8 at the main image size, else the first that is there."""
    paths = (out / PLANS / f"{kind}.safetensors" for kind in KINDS)
    return next((path for path in paths if path.exists()), None)


def inputs_of(kind: PlanKind) -> Inputs:
    """Activations that the engine prepares for: quantized or float."""
    return "float" if kind.endswith("_weights") else "integer"


def quantize_recipe(recipe: QuantizeRecipe, kind: PlanKind) -> QuantizeRecipe:
    """The steps for a plan of 4-bit weights in groups, or of 8-bit (7-bit) ones per channel, which kernels want.

    Float products do not saturate: 7 bits are for integer ones.
    """
    if kind.startswith("int4"):
        promote = _W4_PROMOTED if recipe.promote is None else recipe.promote
        return recipe.model_copy(
            update={
                "weight_bits": 4,
                "group_size": recipe.group_size or _W4_GROUP,
                "promote": promote,
                "zero_points": recipe.zero_points and kind != "int4_symmetric",
            }
        )
    bits = 8 if recipe.weight_bits == 4 else recipe.weight_bits
    recipe = recipe.model_copy(update={"weight_bits": bits, "group_size": None})
    return recipe.model_copy(update={"overflow": "none"}) if inputs_of(kind) == "float" else recipe
