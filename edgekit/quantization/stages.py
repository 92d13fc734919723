"""A transformer block as the four weight GEMMs it runs, so that the engine can quantize them one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from edgekit.models.vit import Block, Mlp

State = dict[str, Tensor]  # "x": residual stream (B, N, D); "mixed", "hidden": input of proj / of fc2


@dataclass(frozen=True)
class Stage:
    """One GEMM of a block, with the functions that make its input and take its output."""

    part: str  # "attn.qkv": module path inside the block
    linear: nn.Linear
    input: Callable[[State], Tensor]  # state -> (B, N, in)
    advance: Callable[[State, Tensor], State]  # state and the GEMM's output -> next state
    recompute: bool = False  # the output is several times wider than D: recompute it instead of caching it

    def run(self, state: State) -> State:
        """The state after this stage."""
        return self.through(self.linear, state)

    def through(self, linear: nn.Module, state: State) -> State:
        """The state after this stage with another module in the place of the GEMM."""
        return self.advance(state, linear(self.input(state)))


def stages_of(block: Block) -> list[Stage]:
    """The stages of a block in the order they run; running all of them on {"x": x} leaves {"x": block(x)}."""
    attention, mlp = block.attn, block.mlp

    def after_qkv(state: State, y: Tensor) -> State:
        return {"x": state["x"], "mixed": attention.mix(*attention.split_heads(y))}

    def after_proj(state: State, y: Tensor) -> State:
        return {"x": state["x"] + block.ls1(y)}

    def after_fc1(state: State, y: Tensor) -> State:
        hidden = F.gelu(y)
        gain = cast("Mlp", mlp).fc2_gain
        return {"x": state["x"], "hidden": hidden if gain is None else hidden * gain}

    def after_w12(state: State, y: Tensor) -> State:
        a, b = y.chunk(2, dim=-1)
        return {"x": state["x"], "hidden": F.silu(a) * b}

    def after_last(state: State, y: Tensor) -> State:
        return {"x": state["x"] + block.ls2(y)}

    is_mlp = hasattr(mlp, "fc1")
    first, last = ("fc1", "fc2") if is_mlp else ("w12", "w3")
    return [
        Stage("attn.qkv", attention.qkv, lambda s: block.norm1(s["x"]), after_qkv),
        Stage("attn.proj", attention.proj, lambda s: s["mixed"], after_proj),
        Stage(
            f"mlp.{first}",
            getattr(mlp, first),
            lambda s: block.norm2(s["x"]),
            after_fc1 if is_mlp else after_w12,
            recompute=True,
        ),
        Stage(f"mlp.{last}", getattr(mlp, last), lambda s: s["hidden"], after_last),
    ]
