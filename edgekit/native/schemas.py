"""ONNX schemas of edgekit's ops, so that onnx.checker and shape inference know them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from onnx.defs import OpSchema

from edgekit.native.blocks import ATTENTION, BLOCK, DOMAIN, FLOAT_BLOCK, VERSION

_FLOAT, _INT8 = "tensor(float)", "tensor(int8)"


def schemas() -> tuple[OpSchema, ...]:
    """One schema per op of domain "edgekit", version 1."""
    return (_attention(), _block(), _float_block())


@contextmanager
def known_to_onnx() -> Iterator[None]:
    """Register the schemas with the onnx package for as long as the context lasts."""
    added = [schema for schema in schemas() if not onnx.defs.has(schema.name, schema.domain)]
    for schema in added:
        onnx.defs.register_schema(schema)
    try:
        yield
    finally:
        for schema in added:
            onnx.defs.deregister_schema(schema.name, schema.since_version, schema.domain)


def _attention() -> OpSchema:
    schema = OpSchema(
        ATTENTION,
        DOMAIN,
        VERSION,
        doc="softmax(q k^T * scale) v over a packed projection (B, N, 3 * D), heads joined again: (B, N, D).",
        inputs=[OpSchema.FormalParameter("qkv", _FLOAT), *_rope()],
        outputs=[OpSchema.FormalParameter("mixed", _FLOAT)],
        attributes=[
            _required("num_heads", OpSchema.AttrType.INT),
            _required("scale", OpSchema.AttrType.FLOAT),
            _required("mode", OpSchema.AttrType.STRING),
        ],
    )
    schema.set_type_and_shape_inference_function(_infer_attention)
    return schema


def _block() -> OpSchema:
    inputs = [OpSchema.FormalParameter("x", _FLOAT)]
    for norm, linears in (("norm1", ("qkv", "proj")), ("norm2", ("fc1", "fc2"))):
        inputs += [OpSchema.FormalParameter(f"{norm}_{part}", _FLOAT) for part in ("weight", "bias")]
        for linear in linears:
            inputs.append(OpSchema.FormalParameter(f"{linear}_weight", _INT8))
            inputs += [OpSchema.FormalParameter(f"{linear}_{part}", _FLOAT) for part in ("scale", "bias")]
    inputs += [_optional("fc2_gain"), *_rope()]
    schema = OpSchema(
        BLOCK,
        DOMAIN,
        VERSION,
        doc="A pre-norm transformer block (B, N, D) -> (B, N, D): int8 weights, activations quantized per token. "
        "It is SwiGLU where fc1 has twice as many outputs as fc2 has inputs, gates before values.",
        inputs=inputs,
        outputs=[OpSchema.FormalParameter("y", _FLOAT)],
        attributes=[
            _required("num_heads", OpSchema.AttrType.INT),
            _required("scale", OpSchema.AttrType.FLOAT),
            _required("epsilon", OpSchema.AttrType.FLOAT),
            _required("tier", OpSchema.AttrType.STRING),
        ],
    )
    schema.set_type_and_shape_inference_function(_infer_block)
    return schema


def _float_block() -> OpSchema:
    inputs = [OpSchema.FormalParameter("x", _FLOAT)]
    for part in ("norm1", "qkv", "proj", "norm2", "fc1", "fc2"):
        inputs += [OpSchema.FormalParameter(f"{part}_{kind}", _FLOAT) for kind in ("weight", "bias")]
    inputs += _rope()
    schema = OpSchema(
        FLOAT_BLOCK,
        DOMAIN,
        VERSION,
        doc="A pre-norm transformer block (B, N, D) -> (B, N, D) in float32; weights are matrices (in, out). "
        "It is SwiGLU where fc1 has twice as many outputs as fc2 has inputs, gates before values.",
        inputs=inputs,
        outputs=[OpSchema.FormalParameter("y", _FLOAT)],
        attributes=[
            _required("num_heads", OpSchema.AttrType.INT),
            _required("scale", OpSchema.AttrType.FLOAT),
            _required("epsilon", OpSchema.AttrType.FLOAT),
        ],
    )
    schema.set_type_and_shape_inference_function(_infer_block)
    return schema


def _optional(name: str) -> OpSchema.FormalParameter:
    return OpSchema.FormalParameter(name, _FLOAT, param_option=OpSchema.FormalParameterOption.Optional)


def _rope() -> list[OpSchema.FormalParameter]:
    """Tables (P, D / H / 2) of the last P tokens' angles; queries and keys of those before them are not rotated."""
    return [_optional("rope_cos"), _optional("rope_sin")]


def _required(name: str, kind: OpSchema.AttrType) -> OpSchema.Attribute:
    return OpSchema.Attribute(name, kind, required=True)


def _infer_attention(context: onnx.shape_inference.InferenceContext) -> None:
    """The last axis is a third as long."""
    result = context.get_input_type(0)
    width = result.tensor_type.shape.dim[-1]
    if width.HasField("dim_value"):
        width.dim_value //= 3
    context.set_output_type(0, result)


def _infer_block(context: onnx.shape_inference.InferenceContext) -> None:
    """Out as in."""
    context.set_output_type(0, context.get_input_type(0))
