"""The network's operations in MIL, Core ML's intermediate language, with names that follow the module paths.

Written in the final number type, so that no pass of coremltools rounds, renames or moves a quantizer afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from typing_extensions import override

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES
from edgekit.backends.coreml.builder import Var, mil_name
from edgekit.backends.coreml.heads import CoreMlHeadEmitter
from edgekit.backends.coreml.norms import SHRINK
from edgekit.graph.backbone import emit_backbone
from edgekit.graph.emitter import Activation
from edgekit.graph.heads import emit_heads
from edgekit.plan.heads import HEADS

if TYPE_CHECKING:
    from edgekit.graph.heads import Head


class CoreMlEmitter(CoreMlHeadEmitter):
    """`edgekit.graph.emitter.Emitter` on variables of a program in the making.

    The batch is 1, as the Neural Engine wants it, or open; see `ProgramOptions.batch`.
    """

    @override
    def prepend_tokens(self, patches: Var) -> Var:
        if self.options.batch == -1:  # nothing constant can stand in front of a number of images that is open
            pad, zero = [0, 0, self.prefix, 0, 0, 0], self.options.dtype(0)
            x = mb.pad(x=patches, pad=pad, mode="constant", constant_val=zero, name="tokens_padded")  # (B, N, D)
            added = np.concatenate([self.prefix_tokens, self.patch_positions], axis=1)
            return mb.add(x=x, y=self.options.number(added), name="tokens")
        x = patches
        if self.learned_positions:
            x = mb.add(x=patches, y=self.options.number(self.patch_positions), name="patches_positioned")
        tokens = self.options.number(self.prefix_tokens)  # (1, 1 + R, D)
        return mb.concat(values=[mb.const(val=tokens, name="prefix_tokens"), x], axis=1, name="tokens")

    @override
    def split_heads(self, name: str, packed: Var) -> tuple[Var, Var, Var]:
        name = mil_name(name)
        parts = mb.split(x=packed, num_splits=3, axis=2, name=f"{name}_split")
        q, k, v = (self._per_head(f"{name}_{part}", x) for part, x in zip("qkv", parts, strict=True))
        return q, k, v

    def _per_head(self, name: str, x: Var) -> Var:
        """Split channels into attention heads: (B, N, D) -> (B, H, N, d)."""
        shape = [self.options.batch, self.tokens, self.config.heads, self.config.head_dim]
        x = mb.reshape(x=x, shape=shape, name=f"{name}_heads")  # (B, N, H, d)
        return mb.transpose(x=x, perm=[0, 2, 1, 3], name=name)

    @cached_property
    def _tables(self) -> list[Var]:
        """cos and sin (N, d), one constant each for all blocks."""
        tables = zip(("cos", "sin"), self.rotation, strict=True)
        return [mb.const(val=self.options.number(table), name=f"rope_{part}") for part, table in tables]

    @override
    def turn(self, name: str, x: Var, shift: np.ndarray | None) -> Var:
        name, (cos, sin) = mil_name(name), self._tables
        low, high = mb.split(x=x, num_splits=2, axis=3, name=f"{name}_halves")
        swapped = mb.concat(values=[high, low], axis=3, name=f"{name}_swapped")
        straight = mb.mul(x=x, y=cos, name=f"{name}_straight")
        across = mb.mul(x=swapped, y=sin, name=f"{name}_across")
        turned = mb.add(x=straight, y=across, name=f"{name}_turned")
        return turned if shift is None else mb.add(x=turned, y=self.options.number(shift), name=f"{name}_shifted")

    @override
    def join_heads(self, name: str, x: Var) -> Var:
        name = mil_name(name)
        joined = mb.transpose(x=x, perm=[0, 2, 1, 3], name=f"{name}_join")  # (B, N, H, d)
        return mb.reshape(x=joined, shape=[self.options.batch, self.tokens, self.config.width], name=f"{name}_mix")

    @override
    def scale_channels(self, x: Var, key: str, name: str) -> Var:
        return mb.mul(x=x, y=self.options.number(self.tensors[key]), name=mil_name(name))

    @override
    def swiglu(self, x: Var, name: str) -> Var:
        name = mil_name(name)
        gate, value = mb.split(x=x, num_splits=2, axis=2, name=f"{name}_split")  # (B, N, F) each
        return mb.mul(x=mb.silu(x=gate, name=f"{name}_silu"), y=value, name=f"{name}_gated")

    @override
    def add(self, a: Var, b: Var, name: str = "") -> Var:
        return mb.add(x=a, y=b, name=self._named(name, "add"))

    @override
    def layer_norm(self, x: Var, weight: np.ndarray, bias: np.ndarray, name: str = "") -> Var:
        # The squares of large inputs would overflow float16: LayerNorm of a smaller copy is the same but for epsilon. A
        # head's norm reads the residual stream of the backbone, so it shrinks where any of the backbone's does.
        shrunk = bool(self.large) if self.in_head else name in self.large
        dtype, number, name = self.options.dtype, self.options.number, self._named(name, "norm")
        factor = dtype(SHRINK if shrunk else 1.0)
        if shrunk:
            x = mb.mul(x=x, y=factor, name=f"{name}_shrunk")
        epsilon = dtype(self.config.norm_eps * float(factor) ** 2)
        return mb.layer_norm(x=x, axes=[-1], gamma=number(weight), beta=number(bias), epsilon=epsilon, name=name)

    @override
    def matmul(self, x: Var, matrix: np.ndarray, name: str = "") -> Var:
        return mb.linear(x=x, weight=self.options.number(matrix.T), name=self._named(name, "matmul"))

    @override
    def activate(self, x: Var, function: Activation, name: str = "") -> Var:
        name = self._named(name, function)
        match function:
            case "relu":
                return mb.relu(x=x, name=name)
            case "gelu":
                return mb.gelu(x=x, mode="EXACT", name=name)
            case "sigmoid":
                return mb.sigmoid(x=x, name=name)

    @override
    def class_token(self, tokens: Var, name: str = "") -> Var:
        # An open batch and all channels are taken whole, whatever their number is.
        whole = {"begin_mask": [True, False, False], "end_mask": [True, False, False]}
        return mb.slice_by_index(
            x=tokens,
            begin=[0, 0, 0],
            end=[1, 1, self.config.width],
            squeeze_mask=[False, True, False],
            name=self._named(name, "class_token"),
            **(whole if self.options.batch == -1 else {}),
        )

    def _named(self, name: str, kind: str) -> str:
        """The name of an operation of the backbone, or a new one of the head at hand."""
        return mil_name(name) if name else self.name_of(kind)


def program_of(e: CoreMlEmitter, heads: Mapping[str, Head] | None = None, batch: Any = 1) -> Any:
    """The export contract as a MIL program: `pixel_values` (B, 3, H, W) -> outputs and heads', float32.

    Args:
        e: an emitter that has written nothing yet.
        heads: further outputs, by name; of one image at a time only.
        batch: B, 1 or coremltools' `RangeDim`.
    """
    import coremltools as ct

    config, options, heads = e.config, e.options, heads or {}
    height, width = (side * config.patch for side in config.grid)
    spec = mb.TensorSpec(shape=(batch if options.batch == 1 else batch.symbol, 3, height, width), dtype=types.fp32)
    narrow = options.dtype == np.float16

    @mb.program(input_specs=[spec], opset_version=getattr(ct.target, options.target))  # type: ignore[untyped-decorator]
    def program(pixel_values: Var) -> tuple[Var, ...]:
        pixels = mb.cast(x=pixel_values, dtype="fp16", name=f"{INPUT_NAME}_fp16") if narrow else pixel_values
        backbone = emit_backbone(e, pixels)
        outputs = dict(zip(OUTPUT_NAMES, (backbone.hidden, backbone.pooled), strict=True))
        for name, x in emit_heads(e, heads, backbone.blocks, backbone.hidden).items():
            shape = [1, *heads[name].shape(config.grid)]
            outputs[name] = mb.reshape(x=x, shape=shape, name=mil_name(f"{HEADS}{name}_shaped"))
        return tuple(
            mb.cast(x=x, dtype="fp32", name=name) if narrow else mb.identity(x=x, name=name)
            for name, x in outputs.items()
        )

    return program
