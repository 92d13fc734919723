"""What a fused integer file computes, in whatever format it is written."""

from __future__ import annotations

from dataclasses import replace

from edgekit.native.blocks import Tier, block_of, whole_blocks
from edgekit.plan.quant import FloatInput, PerTokenInput, QuantPlan


def as_fused(plan: QuantPlan) -> QuantPlan:
    """The plan as a fused file runs it, for the simulator.

    GEMMs of whole blocks quantize per token and have the uncorrected bias; a plan of weights alone, for tier "quality",
    has float inputs, as which its 16 bits pass. The patch embedding stays float: it is 1 % of the arithmetic, and as
    integers it would cost a pass over the patches.
    """
    whole = {name for name, reason in whole_blocks(plan).items() if reason is None}
    gemms = {}
    for name, gemm in plan.gemms.items():
        if block_of(name) in whole:
            quantizer = gemm.input if isinstance(gemm.input, FloatInput) else PerTokenInput()
            gemms[name] = replace(gemm, bias=gemm.bias_dynamic, input=quantizer)
        elif name != "patch_embed.proj":
            gemms[name] = gemm
    return replace(plan, gemms=gemms, matmuls={})


def tier_of(plan: QuantPlan) -> Tier:
    """The tier that the plan's recipe asked for; "speed" where a plan does not say."""
    recipe = plan.provenance.get("recipe", {})
    return "quality" if recipe.get("tier") == "quality" else "speed"
