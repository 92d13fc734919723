"""The names of edgekit's ops, which blocks of a plan can run as one QViTBlock, and where the op's inputs stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgekit.plan.quant import GemmPlan, QuantPlan

ATTENTION, BLOCK, FLOAT_BLOCK = "FusedQKVAttention", "QViTBlock", "ViTBlock"
DOMAIN, VERSION = "edgekit", 1

FEED_FORWARD = {"mlp": ("mlp.fc1", "mlp.fc2"), "swiglu": ("mlp.w12", "mlp.w3")}
"""The two GEMMs of the feed-forward part by `ffn` of a config; w12 has gates, then values."""

Tier = Literal["speed", "quality"]


def problem_of(gemms: Mapping[str, GemmPlan], name: str) -> str | None:
    """Why a GEMM cannot run in the op; None when it can."""
    gemm = gemms.get(name)
    if gemm is None:
        return f"the plan keeps {name} float"
    groups = gemm.weight_scale.shape[1]
    return None if groups == 1 else f"{name} has {groups} weight scales per output channel, the op takes one"


def first_inputs(ffn: str) -> dict[str, int]:
    """Positions of weight, scale and bias of each GEMM among QViTBlock's inputs."""
    return dict(zip(("attn.qkv", "attn.proj", *FEED_FORWARD[ffn]), (3, 6, 11, 14), strict=True))


def whole_blocks(plan: QuantPlan) -> dict[str, str | None]:
    """Every block, with the first reason why it cannot be one QViTBlock; None where it can."""
    found = {}
    for name in (f"blocks.{i}" for i in range(plan.config.depth)):
        reasons = (problem_of(plan.gemms, f"{name}.{part}") for part in first_inputs(plan.config.ffn))
        found[name] = next((reason for reason in reasons if reason), None)
    return found


def block_of(name: str) -> str:
    """ "blocks.3" of "blocks.3.mlp.fc1"."""
    return ".".join(name.split(".")[:2])
