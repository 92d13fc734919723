"""Attention as `odml.scaled_dot_product_attention`: one TFLite operator that a delegate may run whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends.tflite.emitter import Writer

if TYPE_CHECKING:
    from edgekit.backends.tflite.flatbuffer import Value

COMPOSITE = "odml.scaled_dot_product_attention"


class CompositeWriter(Writer):
    """Writes the backbone with one composite per block.

    Who does not know its name runs the plain operators that stand behind it: a subgraph that all blocks share.
    """

    def attention(self, name: str, x: Value) -> Value:
        """As in `Writer`; the composite takes and gives (B, N, H, D/H)."""
        c = self.config
        packed = self.gemms.linear(self.graph, f"{name}.qkv", x)  # (B, N, 3*D)
        shape = (-1, self.tokens, c.heads, c.head_dim)
        parts = zip("qkv", self.split(name, packed, 3), strict=True)
        inputs = [self.reshape(f"{name}.{part}", value, shape) for part, value in parts]
        scale = float(np.float32(self.tensors[f"{name}.scale"].item()))  # XNNPACK takes float32 for 0 if told in double
        mixed = self.graph.composite(COMPOSITE, f"{name}.mixed", inputs, shape, {"scale": scale}, self._plain(scale))
        return self.gemms.linear(self.graph, f"{name}.proj", self.reshape(f"{name}.mix", mixed, x.shape))

    def _plain(self, scale: float) -> int:
        """Index of the subgraph of the same function in plain operators."""
        name = f"{COMPOSITE}.{scale:.9g}"
        if (known := self.graph.kept(name)) is not None:
            return known
        plain = Writer(self.config, self.tensors, self.gemms, self.graph.child())
        inputs = [plain.graph.input(part, (-1, self.tokens, self.config.heads, self.config.head_dim)) for part in "qkv"]
        q, k, v = (plain.transpose(f"{part}.heads", x, (0, 2, 1, 3)) for part, x in zip("qkv", inputs, strict=True))
        mixed = plain.transpose("mixed", plain.attend("attention", q, k, v, scale), (0, 2, 1, 3))
        return self.graph.keep(name, plain.graph, inputs, [mixed])
