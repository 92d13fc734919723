"""Attention as `odml.scaled_dot_product_attention`: one TFLite operator that a delegate may run whole."""

from __future__ import annotations

import numpy as np
from typing_extensions import override

from edgekit.backends.tflite.builder import FloatBuilder
from edgekit.backends.tflite.emitter import TfliteEmitter
from edgekit.backends.tflite.flatbuffer import Value
from edgekit.errors import ExportError

COMPOSITE = "odml.scaled_dot_product_attention"


class CompositeEmitter(TfliteEmitter):
    """Writes the attention of each block as one StableHLO composite over (B, N, H, d).

    Delegates that do not know its name run its decomposition: a subgraph of plain operators that all blocks share.
    """

    @override
    def fused_attention(self, name: str, packed: Value) -> Value:
        if not self.learned_positions:
            raise ExportError(
                "attention as one composite turns no queries and keys",
                why=f"{self.config.arch} has rotary positions",
                fix='fused_attention = "off" in the recipe',
            )
        shape = (-1, self.tokens, self.config.heads, self.config.head_dim)
        parts = zip("qkv", self.builder.split(name, packed, 3), strict=True)
        inputs = [self.builder.reshape(f"{name}.{part}", x, shape) for part, x in parts]
        scale = float(np.float32(self.tensors[f"{name}.scale"].item()))  # XNNPACK takes float32 for 0 if told in double
        decomposition = self._decomposition(scale)
        mixed = self.graph.composite(COMPOSITE, f"{name}.mixed", inputs, shape, {"scale": scale}, decomposition)
        return self.builder.reshape(f"{name}.mix", mixed, (-1, self.tokens, self.config.width))

    def _decomposition(self, scale: float) -> int:
        """Index of the subgraph that computes the same function in plain operators."""
        name = f"{COMPOSITE}.{scale:.9g}"
        if (known := self.graph.subgraph_index(name)) is not None:
            return known
        plain = FloatBuilder(self.graph.subgraph())
        shape = (-1, self.tokens, self.config.heads, self.config.head_dim)
        inputs = [plain.graph.input(part, shape) for part in "qkv"]
        q, k, v = (plain.transpose(f"{part}.heads", x, (0, 2, 1, 3)) for part, x in zip("qkv", inputs, strict=True))
        mixed = plain.transpose("mixed", plain.attention("attention", q, k, v, scale), (0, 2, 1, 3))
        return self.graph.add_subgraph(name, plain.graph, inputs, [mixed])
