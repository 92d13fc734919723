"""Replaces what the exporter wrote in standard ops by edgekit's own, rule by rule, and counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edgekit.errors import ExportError
from edgekit.native.blocks import DOMAIN, VERSION, Tier
from edgekit.native.fuse_attention import fuse_attention
from edgekit.native.fuse_blocks import fuse_blocks
from edgekit.native.fuse_float_blocks import fuse_float_blocks

if TYPE_CHECKING:
    from edgekit.plan.quant import QuantPlan


def fuse(model: ir.Model, plan: QuantPlan | None, tier: Tier = "speed") -> dict[str, int]:
    """Fuse a float32 graph in place, before any optimizer has touched it.

    Args:
        model: as `edgekit.backends.onnx.emitter` emits it.
        plan: None fuses in float32; else whole blocks take the plan's integers. What attention is left then (of
            blocks that the plan keeps partly float, or whose feed-forward part the op does not know) is fused exactly.
        tier: activations of 8 bits ("speed") or of 16 ("quality") inside the fused blocks.

    Returns:
        {rule: how often it was applied}.

    Raises:
        ExportError: the rule that was asked for matched nothing; the reason of each near miss is given.
    """
    counts: dict[str, int] = {}
    if plan is None:
        counts["fuse_float_blocks"], _ = fuse_float_blocks(model.graph)
    else:
        counts["fuse_blocks"], reasons = fuse_blocks(model.graph, plan, tier)
        _refuse_zero("block", counts["fuse_blocks"], reasons)
    counts["fuse_attention"], reasons = fuse_attention(model.graph)
    if plan is None:
        _refuse_zero("attention", sum(counts.values()), reasons)
    model.graph.opset_imports[DOMAIN] = VERSION
    RemoveUnusedNodesPass()(model)
    return counts


def _refuse_zero(what: str, count: int, reasons: list[str]) -> None:
    if count == 0:
        why = "; ".join(reasons) or "the graph has no Softmax"
        raise ExportError(f"no {what} could be fused", why=why, fix="export the standard variant")
