"""ONNX schemas of edgekit's ops, so that onnx.checker and shape inference know them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import onnx
from onnx.defs import OpSchema

from edgekit.native.blocks import ATTENTION, BLOCK, DOMAIN, FLOAT_BLOCK, VERSION

_FLOAT, _INT8 = "tensor(float)", "tensor(int8)"
_SWIGLU = "It is SwiGLU where fc1 has twice as many outputs as fc2 has inputs, gates before values."


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
    return _schema(
        ATTENTION,
        "softmax(q k^T * scale) v over a packed projection (B, N, 3 * D), heads joined again: (B, N, D).",
        inputs=[_parameter("qkv")],
        output="mixed",
        attributes={"mode": OpSchema.AttrType.STRING},
        infer=_infer_attention,
    )


def _block() -> OpSchema:
    inputs = [_parameter("x")]
    for norm, linears in (("norm1", ("qkv", "proj")), ("norm2", ("fc1", "fc2"))):
        inputs += [_parameter(f"{norm}_{part}") for part in ("weight", "bias")]
        for linear in linears:
            inputs.append(OpSchema.FormalParameter(f"{linear}_weight", _INT8))
            inputs += [_parameter(f"{linear}_{part}") for part in ("scale", "bias")]
    return _schema(
        BLOCK,
        f"A pre-norm transformer block (B, N, D) -> (B, N, D): int8 weights, per-token activations. {_SWIGLU}",
        inputs=[*inputs, _optional("fc2_gain")],
        output="y",
        attributes={"epsilon": OpSchema.AttrType.FLOAT, "tier": OpSchema.AttrType.STRING},
        infer=_infer_block,
    )


def _float_block() -> OpSchema:
    parts = ("norm1", "qkv", "proj", "norm2", "fc1", "fc2")
    return _schema(
        FLOAT_BLOCK,
        f"A pre-norm transformer block (B, N, D) -> (B, N, D) in float32; weights are matrices (in, out). {_SWIGLU}",
        inputs=[_parameter("x"), *(_parameter(f"{part}_{kind}") for part in parts for kind in ("weight", "bias"))],
        output="y",
        attributes={"epsilon": OpSchema.AttrType.FLOAT},
        infer=_infer_block,
    )


def _schema(
    name: str,
    doc: str,
    *,
    inputs: list[OpSchema.FormalParameter],
    output: str,
    attributes: dict[str, OpSchema.AttrType],
    infer: Callable[[onnx.shape_inference.InferenceContext], None],
) -> OpSchema:
    """An op with attention in it: rotary tables behind its own inputs, and the attributes of all attention."""
    attributes = {"num_heads": OpSchema.AttrType.INT, "scale": OpSchema.AttrType.FLOAT, **attributes}
    schema = OpSchema(
        name,
        DOMAIN,
        VERSION,
        doc=doc,
        inputs=[*inputs, *_rope()],
        outputs=[_parameter(output)],
        attributes=[OpSchema.Attribute(key, kind, required=True) for key, kind in attributes.items()],
    )
    schema.set_type_and_shape_inference_function(infer)
    return schema


def _parameter(name: str) -> OpSchema.FormalParameter:
    return OpSchema.FormalParameter(name, _FLOAT)


def _optional(name: str) -> OpSchema.FormalParameter:
    return OpSchema.FormalParameter(name, _FLOAT, param_option=OpSchema.FormalParameterOption.Optional)


def _rope() -> list[OpSchema.FormalParameter]:
    """Tables (P, D / H / 2) of the last P tokens' angles; queries and keys of those before them are not rotated."""
    return [_optional("rope_cos"), _optional("rope_sin")]


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
