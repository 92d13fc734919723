"""Whole transformer blocks as one op of edgekit's, in every format that can hold custom ops."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
from typing_extensions import override

from edgekit.errors import ExportError
from edgekit.graph.emitter import Emitter, V
from edgekit.graph.sizes import Places
from edgekit.native.blocks import (
    ATTENTION,
    BLOCK,
    FEED_FORWARD,
    FLOAT_BLOCK,
    Tier,
    block_of,
    first_inputs,
    whole_blocks,
)
from edgekit.plan.quant import FloatInput, GemmPlan, PerTokenInput, QuantPlan
from edgekit.precision import FACTS, Precision

Attributes = dict[str, str | int | float]  # of a custom op


class FusedBlocks(Emitter[V]):
    """An emitter that writes whole blocks as one QViTBlock or ViTBlock, and other attention as one FusedQKVAttention.

    Mixed in before a format's own emitter, which has to say how a custom op and a constant are written there.
    """

    places: Places[V]  # of the patches, where images may be of any size
    plan: QuantPlan | None
    tier: Tier
    reasons: Mapping[str, str | None]

    def fuse(self, plan: QuantPlan | None, precision: Precision) -> None:
        """Take the integers of whole blocks from `plan`, None writes float blocks; `precision` says the activations.

        Raises:
            ExportError: there is a plan, but no block of it is whole.
        """
        self.tier = "quality" if FACTS[precision].activations == "int16" else "speed"
        self.plan, self.reasons = plan, {} if plan is None else whole_blocks(plan)
        if plan is not None and None not in self.reasons.values():
            why = "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
            raise ExportError("no block could be fused", why=why, fix="fused = false in the recipe")

    @abstractmethod
    def custom_op(self, kind: str, inputs: list[V | None], attributes: Attributes, name: str) -> V:
        """A node of edgekit's domain with one output of the shape (B, N, D); None is an optional input left out."""

    @abstractmethod
    def constant(self, name: str, value: np.ndarray) -> V:
        """An array, stored as it is."""

    @override
    def fused_block(self, name: str, x: V) -> V | None:
        """One op where the plan quantizes all four GEMMs, or where all is float and LayerScale is folded away."""
        if self.plan is None:
            return self._float_block(name, x)
        return self._integer_block(self.plan, name, x) if self.reasons[name] is None else None

    @override
    def fused_attention(self, name: str, packed: V) -> V:
        """FusedQKVAttention, exact up to float rounding."""
        attributes: Attributes = {"num_heads": self.config.heads, "scale": self._scale(name), "mode": "f32"}
        return self.custom_op(ATTENTION, [packed, *self._rope], attributes, name)

    def _integer_block(self, plan: QuantPlan, name: str, x: V) -> V:
        gemms = {
            part: [
                self.constant(f"{name}.{part}.{key}", value)
                for key, value in numbers_of(plan.gemms[f"{name}.{part}"]).items()
            ]
            for part in first_inputs(plan.config.ffn)
        }
        inner, outer = FEED_FORWARD[plan.config.ffn]
        norm1, norm2 = self._parameters(f"{name}.norm1"), self._parameters(f"{name}.norm2")
        inputs: list[V | None] = [
            x,
            *norm1,
            *gemms["attn.qkv"],
            *gemms["attn.proj"],
            *norm2,
            *gemms[inner],
            *gemms[outer],
        ]
        if (gain := f"{name}.mlp.fc2_gain") in self.tensors:
            inputs.append(self.constant(gain, self.tensors[gain]))
        elif self._rope:
            inputs.append(None)
        return self.custom_op(BLOCK, [*inputs, *self._rope], {**self._attributes(name), "tier": self.tier}, name)

    def _float_block(self, name: str, x: V) -> V | None:
        if f"{name}.ls1.gamma" in self.tensors:
            return None
        parts = ("norm1", "attn.qkv", "attn.proj", "norm2", *FEED_FORWARD[self.config.ffn])
        parameters = [value for part in parts for value in self._parameters(f"{name}.{part}")]
        return self.custom_op(FLOAT_BLOCK, [x, *parameters, *self._rope], self._attributes(name), name)

    @cached_property
    def _rope(self) -> list[V]:
        """cos and sin (P, d / 2) of the patches, by which the ops turn queries and keys; none of learned positions.

        A key centre is left out: what it takes off every key, no softmax sees.
        """
        if self.learned_positions:
            return []
        if self.sides is not None:
            return list(self.places.rotation)
        cos, sin = (table[self.prefix :] for table in self.rotation)
        half = self.config.head_dim // 2
        return [self.constant("rope.cos", cos[:, :half].copy()), self.constant("rope.sin", sin[:, half:].copy())]

    def _parameters(self, name: str) -> list[V]:
        """Weight, a linear layer's as matrix (in, out), and bias of a module."""
        weight = np.ascontiguousarray(self.tensors[f"{name}.weight"].T)
        return [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", self.tensors[f"{name}.bias"])]

    def _attributes(self, name: str) -> Attributes:
        scale = self._scale(f"{name}.attn")
        return {"num_heads": self.config.heads, "scale": scale, "epsilon": self.config.norm_eps}

    def _scale(self, attention: str) -> float:
        return float(self.tensors[f"{attention}.scale"].item())


def numbers_of(gemm: GemmPlan) -> dict[str, np.ndarray]:
    """The inputs of the op that belong to one GEMM, in their order: int8 (out, in), scale (out,), bias (out,)."""
    return {"weight": gemm.weight, "weight_scale": gemm.weight_scale[:, 0], "bias": gemm.bias_dynamic}


def as_fused(plan: QuantPlan, *, mixed: bool = False) -> QuantPlan:
    """The plan as a fused file runs it, for the simulator.

    GEMMs of whole blocks quantize their inputs per token and have the uncorrected bias; with `mixed`, as libedgekit
    runs them, all GEMMs of all blocks do. The simulator treats 16-bit
    activations as float: the plan of w8a16 has integer weights only. The patch embedding stays
    float: it is 1 % of the arithmetic, and as integers it would cost a pass over the patches.
    """
    whole = {name for name, reason in whole_blocks(plan).items() if mixed or reason is None}
    gemms = {}
    for name, gemm in plan.gemms.items():
        if block_of(name) in whole:
            quantizer = gemm.input if isinstance(gemm.input, FloatInput) else PerTokenInput()
            gemms[name] = replace(gemm, bias=gemm.bias_dynamic, input=quantizer)
        elif name != "patch_embed.proj":
            gemms[name] = gemm
    return replace(plan, gemms=gemms, matmuls={})
