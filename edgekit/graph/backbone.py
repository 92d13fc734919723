"""The vision transformer, written once: every format's graph is this program over that format's emitter."""

from __future__ import annotations

from typing import Generic, NamedTuple

import numpy as np

from edgekit.graph.emitter import BackboneEmitter, V

PATCH_EMBED = "patch_embed.proj"


class Backbone(NamedTuple, Generic[V]):
    """The values of a backbone that heads and outputs are made of."""

    blocks: list[V]  # the residual stream (B, N, D) behind each block
    hidden: V  # (B, N, D) behind the final norm: `last_hidden_state`
    pooled: V  # (B, D), the class token of `hidden`: `pooler_output`


def emit_backbone(e: BackboneEmitter[V], pixels: V) -> Backbone[V]:
    """Write the whole network over `pixels` (B, 3, H, W)."""
    e.measure(pixels)
    x = e.prepend_tokens(e.gemms.patch_embed(PATCH_EMBED, pixels))  # (B, N, D)
    blocks = []
    for i in range(e.config.depth):
        x = _block(e, f"blocks.{i}", x)
        blocks.append(x)
    if "unrotate" in e.tensors:  # of a model in a rotated basis, see `edgekit.surgery.rotate`
        x = e.matmul(x, e.tensors["unrotate"], "unrotate")
    hidden = _norm(e, "norm", x)
    return Backbone(blocks, hidden, e.class_token(hidden, "pooler"))


def _block(e: BackboneEmitter[V], name: str, x: V) -> V:
    """x + ls1(attention(norm1(x))), then x + ls2(ffn(norm2(x))): (B, N, D) -> (B, N, D)."""
    fused = e.fused_block(name, x)
    if fused is not None:
        return fused
    branch = emit_attention(e, f"{name}.attn", _norm(e, f"{name}.norm1", x))
    x = e.add(x, _gain(e, f"{name}.ls1.gamma", branch, f"{name}.ls1"), f"{name}.residual1")
    branch = _ffn(e, f"{name}.mlp", _norm(e, f"{name}.norm2", x))
    return e.add(x, _gain(e, f"{name}.ls2.gamma", branch, f"{name}.ls2"), f"{name}.residual2")


def emit_attention(e: BackboneEmitter[V], name: str, x: V) -> V:
    """Packed qkv projection, softmax(q k^T * scale) v, output projection: (B, N, D) -> (B, N, D)."""
    packed = e.gemms.linear(f"{name}.qkv", x)  # (B, N, 3 D)
    mixed = e.fused_attention(name, packed)
    if mixed is None:
        q, k, v = e.split_heads(name, packed)  # (B, H, N, d) each
        if not e.learned_positions:
            q, k = e.turn(f"{name}.q", q, None), e.turn(f"{name}.k", k, _key_shift(e, name))
        mixed = e.join_heads(name, e.gemms.attention(name, q, k, v))
    return e.gemms.linear(f"{name}.proj", mixed)


def _key_shift(e: BackboneEmitter[V], name: str) -> np.ndarray | None:
    """Shift (H, 1, d) that centres turned keys; None without the rewrite `edgekit.surgery.centre_turned_keys`."""
    centre = e.tensors.get(f"{name}.key_centre")
    return None if centre is None else -centre.reshape(e.config.heads, 1, e.config.head_dim)


def _ffn(e: BackboneEmitter[V], name: str, x: V) -> V:
    """fc2(gain * gelu(fc1 x)), or w3(silu(a) * b) with (a, b) = w12 x: (B, N, D) -> (B, N, D).

    The gain per hidden channel is there only once the rewrite `edgekit.surgery.scale_hidden` has been made.
    """
    if e.config.ffn == "swiglu":
        return e.gemms.linear(f"{name}.w3", e.swiglu(e.gemms.linear(f"{name}.w12", x), name))
    hidden = e.activate(e.gemms.linear(f"{name}.fc1", x), "gelu", f"{name}.gelu")  # (B, N, F)
    hidden = _gain(e, f"{name}.fc2_gain", hidden, f"{name}.fc2_gain/scaled")
    return e.gemms.linear(f"{name}.fc2", hidden)


def _norm(e: BackboneEmitter[V], name: str, x: V) -> V:
    """LayerNorm of the module with that path."""
    return e.layer_norm(x, e.tensors[f"{name}.weight"], e.tensors[f"{name}.bias"], name)


def _gain(e: BackboneEmitter[V], key: str, x: V, name: str) -> V:
    """x times a factor per channel, or x itself where the model has none or it is folded into the weights."""
    return e.scale_channels(x, key, name) if key in e.tensors else x
