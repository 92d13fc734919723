"""Writes DINOv2 as a MIL program, operation by operation; the `Gemms` handed in decide what is quantized.

Written in the final number type, so that no pass of coremltools rounds, renames or moves a quantizer afterwards.
Shapes: N tokens, D width, H heads, F hidden width of the MLP; the batch is 1, as the Neural Engine wants it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.coreml.norms import SHRINK

if TYPE_CHECKING:
    from edgekit.graph.heads import Head
    from edgekit.models.config import DinoV2Config
    from edgekit.plan.heads import HeadPlan

Target = Literal["iOS17", "iOS18"]
"""iOS 18 and macOS 15 have attention as one operation; before them it is written as two products and a softmax."""

_PATCHES = "patch_embed.proj"

Var = Any  # coremltools.converters.mil.mil.Var
LAYER_NORM_EPS = 1e-6  # as edgekit.models.vit, which would load torch


class Gemms(Protocol):
    """Decides how each matrix product with fixed weights is computed. One graph serves all precisions."""

    dtype: type[np.floating[Any]]  # float16 or float32: of all activations
    gains: Mapping[str, np.ndarray]  # that it multiplies the rows of GEMMs by; see `row_gains`

    def linear(self, name: str, x: Var) -> Var:
        """(1, N, in) -> (1, N, out) of the linear layer with that module path, bias included."""
        ...

    def convolution(self, name: str, pixels: Var, patch: int) -> Var:
        """(1, 3, height, width) -> (1, D, rows, columns): the patch embedding, bias included."""
        ...


def mil_name(module_path: str) -> str:
    """MIL identifiers have no dots: "blocks.0.attn.qkv" -> "blocks_0_attn_qkv"."""
    return module_path.replace(".", "_")


def row_gains(
    config: DinoV2Config,
    tensors: Mapping[str, np.ndarray],
    target: Target,
    normalize: Literal["host", "graph"] = "host",
) -> dict[str, np.ndarray]:
    """Factors (out,) of the rows of some GEMMs, powers of two in official models, which no number type rounds.

    Queries: so that attention needs no scale of its own; MIL's fused attention divides by sqrt(d) always, d = 64.
    Patch embedding of a model that takes RGB 0..255: its weights are 57 times smaller than usual and their scales would
    leave float16's normal numbers; `embed` divides by the same factor afterwards.
    """
    divides = math.sqrt(config.head_dim) if target == "iOS18" else 1.0
    gains = {_PATCHES: np.full(config.width, 64, np.float32)} if normalize == "graph" else {}
    for i in range(config.depth):
        gain = np.ones(3 * config.width, np.float32)
        gain[: config.width] = np.float32(tensors[f"blocks.{i}.attn.scale"].item() * divides)
        gains[f"blocks.{i}.attn.qkv"] = gain
    return gains


def build_program(
    config: DinoV2Config,
    tensors: Mapping[str, np.ndarray],
    gemms: Gemms,
    target: Target,
    large: frozenset[str],
    heads: Mapping[str, Head] | None = None,
    images: Any = 1,
    head_plan: HeadPlan | None = None,
) -> Any:
    """The export contract as a MIL program: `pixel_values` (B, 3, height, width) -> outputs and heads', float32.

    Args:
        config: of the baked model, whose `grid` is the image size in patches.
        tensors: float tensors as `edgekit.surgery.state_of` gives them.
        gemms: how weight GEMMs are computed.
        target: the oldest system that shall run it.
        large: norms that get their input shrunk by a power of two; see `coreml_norms.large_norms`.
        heads: further outputs, by name; of one image at a time only.
        images: B: 1, or coremltools' `RangeDim`.
        head_plan: integers of the heads.
    """
    import coremltools as ct

    from edgekit.backends.coreml.heads import head_outputs

    height, width = (side * config.patch for side in config.grid)
    fixed = isinstance(images, int)
    pixels = mb.TensorSpec(shape=(images if fixed else images.symbol, 3, height, width), dtype=types.fp32)
    writer = Writer(config, tensors, gemms, target, large, images if fixed else -1)

    @mb.program(input_specs=[pixels], opset_version=getattr(ct.target, target))  # type: ignore[untyped-decorator]
    def program(pixel_values: Var) -> tuple[Var, ...]:
        x, blocks = writer.embed(writer.half(pixel_values, f"{INPUT_NAME}_half")), []  # (1, N, D)
        for i in range(config.depth):
            x = writer.block(f"blocks.{i}", x)
            blocks.append(x)
        if "unrotate" in tensors:
            x = mb.linear(x=x, weight=writer.number(tensors["unrotate"].T), name="unrotate")
        hidden = writer.norm("norm", x)
        whole = {} if fixed else {"begin_mask": [True, False, False], "end_mask": [True, False, False]}
        pooled = mb.slice_by_index(
            x=hidden,
            begin=[0, 0, 0],
            end=[1, 1, config.width],
            squeeze_mask=[False, True, False],
            name="pooler",
            **whole,
        )
        outputs = dict(zip(OUTPUT_NAMES, (hidden, pooled), strict=True))
        outputs |= head_outputs(writer, heads or {}, blocks, hidden, head_plan)
        return tuple(
            mb.cast(x=v, dtype="fp32", name=n) if gemms.dtype == np.float16 else mb.identity(x=v, name=n)
            for n, v in outputs.items()
        )

    return program


class Writer:
    """Writes the modules of one model; every method takes and returns a variable of the program."""

    def __init__(
        self,
        config: DinoV2Config,
        tensors: Mapping[str, np.ndarray],
        gemms: Gemms,
        target: Target,
        large: frozenset[str],
        images: int = 1,
    ) -> None:
        """`images`: of a call, -1 where their number is open."""
        self.images = images
        self.config, self.tensors, self.gemms, self.target, self.large = config, tensors, gemms, target, large
        self.tokens = 1 + config.registers + config.grid[0] * config.grid[1]

    def half(self, x: Var, name: str) -> Var:
        """`x` in the program's number type."""
        return mb.cast(x=x, dtype="fp16", name=name) if self.gemms.dtype == np.float16 else x

    def number(self, value: np.ndarray) -> np.ndarray:
        """A constant in the program's number type."""
        return np.ascontiguousarray(value, self.gemms.dtype)

    def embed(self, pixels: Var) -> Var:
        """(1, 3, height, width) -> (1, N, D): patches plus position, behind a constant CLS + position and registers."""
        c = self.config
        x = self.gemms.convolution(_PATCHES, pixels, c.patch)
        if _PATCHES in self.gemms.gains:
            x = mb.mul(x=x, y=self.gemms.dtype(1 / self.gemms.gains[_PATCHES][0]), name="patch_embed_restored")
        x = mb.reshape(x=x, shape=[self.images, c.width, c.grid[0] * c.grid[1]], name="patch_embed_flat")
        x = mb.transpose(x=x, perm=[0, 2, 1], name="patch_embed_tokens")
        position = self.tensors["pos_embed"]  # (1, 1 + patches, D)
        parts = [self.tensors["cls_token"] + position[:, :1]]
        if c.registers:  # registers carry no position
            parts.append(self.tensors["register_tokens"])
        if self.images == -1:  # nothing constant can stand in front of a number of images that is open
            room = [0, 0, 1 + c.registers, 0, 0, 0]
            x = mb.pad(x=x, pad=room, mode="constant", constant_val=self.gemms.dtype(0), name="tokens_padded")
            return mb.add(x=x, y=self.number(np.concatenate([*parts, position[:, 1:]], axis=1)), name="tokens")
        x = mb.add(x=x, y=self.number(position[:, 1:]), name="patches_positioned")
        prefix = mb.const(val=self.number(np.concatenate(parts, axis=1)), name="prefix_tokens")  # (1, 1 + R, D)
        return mb.concat(values=[prefix, x], axis=1, name="tokens")

    def block(self, name: str, x: Var) -> Var:
        """Pre-norm block; an absent LayerScale means it is folded."""
        branch = self.attention(f"{name}.attn", self.norm(f"{name}.norm1", x))
        x = mb.add(x=x, y=self.layer_scale(f"{name}.ls1", branch), name=mil_name(f"{name}.residual1"))
        branch = self.ffn(f"{name}.mlp", self.norm(f"{name}.norm2", x))
        return mb.add(x=x, y=self.layer_scale(f"{name}.ls2", branch), name=mil_name(f"{name}.residual2"))

    def norm(self, name: str, x: Var) -> Var:
        """LayerNorm of the module with that path."""
        weight, bias = (self.tensors[f"{name}.{part}"] for part in ("weight", "bias"))
        return self.layer_norm(mil_name(name), x, weight, bias, SHRINK if name in self.large else 1.0)

    def layer_norm(self, name: str, x: Var, weight: np.ndarray, bias: np.ndarray, shrink: float) -> Var:
        """Over the last axis, of a smaller copy of its input where its squares might overflow."""
        factor = self.gemms.dtype(shrink)
        if shrink != 1:
            x = mb.mul(x=x, y=factor, name=f"{name}_shrunk")
        gamma, beta = self.number(weight), self.number(bias)
        epsilon = self.gemms.dtype(LAYER_NORM_EPS * float(factor) ** 2)
        return mb.layer_norm(x=x, axes=[-1], gamma=gamma, beta=beta, epsilon=epsilon, name=name)

    def layer_scale(self, name: str, x: Var) -> Var:
        """LayerScale, unless folded away."""
        if f"{name}.gamma" not in self.tensors:
            return x
        return mb.mul(x=x, y=self.number(self.tensors[f"{name}.gamma"]), name=mil_name(name))

    def attention(self, name: str, x: Var) -> Var:
        """softmax(q k^T * scale) v of the packed projection, the scale being in its rows already."""
        own = mil_name(name)
        packed = self.gemms.linear(f"{name}.qkv", x)  # (1, N, 3*D)
        parts = mb.split(x=packed, num_splits=3, axis=2, name=f"{own}_split")
        q, k, v = (self.head(f"{own}_{part}", o) for part, o in zip("qkv", parts, strict=True))
        if self.target == "iOS18":
            mixed = mb.scaled_dot_product_attention(query=q, key=k, value=v, name=f"{own}_sdpa")  # (1, H, N, D/H)
        else:
            logits = mb.matmul(x=q, y=k, transpose_y=True, name=f"{own}_logits")
            shares = mb.softmax(x=logits, axis=-1, name=f"{own}_probabilities")
            mixed = mb.matmul(x=shares, y=v, name=f"{own}_weighted")
        joined = mb.transpose(x=mixed, perm=[0, 2, 1, 3], name=f"{own}_join")
        joined = mb.reshape(x=joined, shape=[self.images, self.tokens, self.config.width], name=f"{own}_mix")
        return self.gemms.linear(f"{name}.proj", joined)

    def head(self, name: str, x: Var) -> Var:
        """(1, N, D) -> (1, H, N, D/H)."""
        c = self.config
        x = mb.reshape(x=x, shape=[self.images, self.tokens, c.heads, c.head_dim], name=f"{name}_heads")
        return mb.transpose(x=x, perm=[0, 2, 1, 3], name=name)

    def ffn(self, name: str, x: Var) -> Var:
        """fc2(GELU(fc1 x)), or w3(silu(a) * b) of the giant model."""
        own = mil_name(name)
        if self.config.ffn == "swiglu":
            a, b = mb.split(x=self.gemms.linear(f"{name}.w12", x), num_splits=2, axis=2, name=f"{own}_split")
            gated = mb.mul(x=mb.silu(x=a, name=f"{own}_silu"), y=b, name=f"{own}_gated")
            return self.gemms.linear(f"{name}.w3", gated)
        x = mb.gelu(x=self.gemms.linear(f"{name}.fc1", x), mode="EXACT", name=f"{own}_gelu")
        if f"{name}.fc2_gain" in self.tensors:
            x = mb.mul(x=x, y=self.number(self.tensors[f"{name}.fc2_gain"]), name=f"{own}_fc2_gain")
        return self.gemms.linear(f"{name}.fc2", x)
