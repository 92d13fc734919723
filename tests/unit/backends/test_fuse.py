"""Fusion of the exported graph: what becomes one op computes the same, and every near miss says why it is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.artifact import Preprocess
from edgekit.backends.base import folded_tensors
from edgekit.errors import ExportError
from edgekit.models.vit import DinoV2
from edgekit.plan.quant import QuantPlan
from edgekit.quantize.simulate import simulate
from edgekit.surgery import state_of
from tests.support.plans import rtn_plan

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")

from onnx.reference import ReferenceEvaluator  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

from edgekit.backends.base import ExportSource  # noqa: E402
from edgekit.backends.fused import as_fused, tier_of  # noqa: E402
from edgekit.backends.onnx.emitter import FloatGemms, dinov2_graph  # noqa: E402
from edgekit.backends.onnx.fused import FusableGemms  # noqa: E402
from edgekit.native.fuse import fuse  # noqa: E402
from edgekit.native.fuse_attention import fuse_attention  # noqa: E402
from edgekit.native.schemas import known_to_onnx, schemas  # noqa: E402

SIZE = (70, 56)


class FusedQKVAttention(OpRun):
    """From its one-line definition."""

    op_domain = "edgekit"

    def _run(self, qkv: np.ndarray, num_heads: int, scale: float, mode: str) -> tuple[np.ndarray]:
        assert mode == "f32"
        return (attention(qkv, num_heads, scale),)


class ViTBlock(OpRun):
    """From its definition."""

    op_domain = "edgekit"

    def _run(
        self, x: np.ndarray, *others: np.ndarray, num_heads: int, scale: float, epsilon: float
    ) -> tuple[np.ndarray]:
        n1, qkv, proj, n2, fc1, fc2 = zip(others[::2], others[1::2], strict=True)
        x = x + attention(norm(x, *n1, epsilon) @ qkv[0] + qkv[1], num_heads, scale) @ proj[0] + proj[1]
        hidden = torch.nn.functional.gelu(torch.from_numpy(norm(x, *n2, epsilon) @ fc1[0] + fc1[1])).numpy()
        return ((x + hidden @ fc2[0] + fc2[1]).astype(np.float32),)


class QViTBlock(OpRun):
    """From its definition, with each activation quantized over its token's own range (uint8, asymmetric)."""

    op_domain = "edgekit"

    def _run(self, x: np.ndarray, *others: np.ndarray, **attributes: object) -> tuple[np.ndarray]:
        assert attributes["tier"] in ("speed", "quality")
        n1, qkv, proj, n2, fc1, fc2 = others[:2], others[2:5], others[5:8], others[8:10], others[10:13], others[13:16]
        gain = others[16] if len(others) > 16 else 1
        epsilon, heads, scale = (attributes[name] for name in ("epsilon", "num_heads", "scale"))
        mixed = attention(linear(norm(x, *n1, epsilon), *qkv), heads, scale)
        x = x + linear(mixed, *proj)
        hidden = torch.nn.functional.gelu(torch.from_numpy(linear(norm(x, *n2, epsilon), *fc1))).numpy()
        return ((x + linear(hidden * gain, *fc2)).astype(np.float32),)


def norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(epsilon)) * weight + bias


def linear(x: np.ndarray, weight: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    step = (high - low) / np.float32(255)
    zero = np.rint(-low / step)
    integers = np.clip(np.rint(x / step) + zero, 0, 255) - zero
    return ((integers.astype(np.float64) @ weight.T.astype(np.float64)) * step * scale + bias).astype(np.float32)


def attention(qkv: np.ndarray, heads: int, scale: float) -> np.ndarray:
    batch, tokens, packed = qkv.shape
    q, k, v = qkv.reshape(batch, tokens, 3, heads, packed // 3 // heads).transpose(2, 0, 3, 1, 4)
    logits = q @ k.swapaxes(-1, -2) * np.float32(scale)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(batch, tokens, packed // 3)


def pixels(batch: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def torch_tokens(model: DinoV2) -> np.ndarray:
    return model(pixels())[0].numpy()


def float_graph(model: DinoV2, *, folded: bool = True) -> ir.Model:
    source = ExportSource(model, Preprocess.for_size(*SIZE), None, "tiny", "MIT", "", "")
    tensors = folded_tensors(source) if folded else state_of(model)
    return dinov2_graph(model.config, tensors, FloatGemms(tensors))


def fusable_graph(plan: QuantPlan) -> ir.Model:
    return dinov2_graph(plan.config, plan.float_tensors, FusableGemms(plan, "int8"))


def run(model: ir.Model) -> np.ndarray:
    """`last_hidden_state` after the checker has seen the graph."""
    proto = ir.to_proto(model)
    with known_to_onnx():
        onnx.checker.check_model(proto, full_check=True, check_custom_domain=True)
    evaluator = ReferenceEvaluator(proto, new_ops=[FusedQKVAttention, QViTBlock, ViTBlock])
    return evaluator.run(["last_hidden_state"], {"pixel_values": pixels().numpy()})[0]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module", params=["tiny_model", "tiny_reg_model", "tiny_swiglu_model"])
def baked(request: pytest.FixtureRequest) -> DinoV2:
    return request.getfixturevalue(request.param).bake(*SIZE)


@pytest.fixture(scope="module")
def tiny(tiny_reg_model: DinoV2) -> DinoV2:
    return tiny_reg_model.bake(*SIZE)


@pytest.fixture(scope="module")
def plan(tiny: DinoV2) -> QuantPlan:
    return rtn_plan(tiny, pixels(8, seed=1))


def test_float_blocks_are_exact(baked: DinoV2) -> None:
    graph = float_graph(baked)
    whole = baked.config.ffn == "mlp"
    assert fuse(graph, None) == {"fuse_float_blocks": 2 * whole, "fuse_attention": 2 * (not whole)}
    nodes = [node for node in graph.graph if node.domain == "edgekit"]
    assert {node.op_type for node in nodes} == {"ViTBlock" if whole else "FusedQKVAttention"}
    assert not whole or [node.name for node in nodes] == ["blocks.0/ViTBlock", "blocks.1/ViTBlock"]
    assert np.abs(run(graph) - torch_tokens(baked)).max() < 1e-4


@pytest.mark.parametrize("folded", [True, False])
def test_fused_attention_is_exact(baked: DinoV2, folded: bool) -> None:
    graph = float_graph(baked, folded=folded)
    assert fuse_attention(graph.graph) == (2, [])
    graph.graph.opset_imports["edgekit"] = 1
    nodes = [node for node in graph.graph if node.op_type == "FusedQKVAttention"]
    scale = 1.0 if folded else baked.config.head_dim**-0.5
    assert [node.attributes["scale"].as_float() for node in nodes] == pytest.approx([scale, scale])
    assert "Softmax" not in {node.op_type for node in graph.graph}
    assert np.abs(run(graph) - torch_tokens(baked)).max() < 1e-4


@pytest.mark.parametrize("gain", [False, True])
def test_fused_blocks_compute_the_plan_with_ranges_per_token(tiny: DinoV2, gain: bool) -> None:
    model = deepcopy(tiny)
    if gain:
        for block in model.blocks:
            factors = torch.linspace(0.5, 2, model.config.ffn_hidden)
            block.mlp.fc2_gain = torch.nn.Parameter(1 / factors)
            block.mlp.fc2.weight.data *= factors
    plan = rtn_plan(model, pixels(8, seed=1))
    uncorrected = {name: replace(gemm, bias=gemm.bias + 0.5) for name, gemm in plan.gemms.items()}
    plan = replace(plan, gemms=uncorrected)  # the bias that belongs to static ranges must not be taken
    graph = fusable_graph(plan)
    assert fuse(graph, plan) == {"fuse_blocks": 2, "fuse_attention": 0}
    blocks = [node for node in graph.graph if node.op_type == "QViTBlock"]
    assert [node.name for node in blocks] == ["blocks.0/QViTBlock", "blocks.1/QViTBlock"]
    assert {len(node.inputs) for node in blocks} == {18 if gain else 17}
    assert cosine(run(graph), torch_tokens(simulate(as_fused(plan)))) > 0.9999
    assert cosine(run(graph), torch_tokens(model)) < 0.99999  # and it is quantized


def test_a_block_kept_partly_float_stays_in_parts(tiny: DinoV2) -> None:
    plan = rtn_plan(tiny, pixels(8, seed=1), keep_float=("blocks.1.mlp.fc2",))
    graph = fusable_graph(plan)
    assert fuse(graph, plan) == {"fuse_blocks": 1, "fuse_attention": 1}
    kinds = [node.op_type for node in graph.graph]
    assert (kinds.count("Gemm"), kinds.count("MatMul")) == (3, 1)
    assert cosine(run(graph), torch_tokens(simulate(as_fused(plan)))) > 0.9999


def test_the_tier_goes_into_the_op(tiny: DinoV2) -> None:
    plan = replace(rtn_plan(tiny, pixels(2)), provenance={"recipe": {"tier": "quality"}})
    graph = fusable_graph(plan)
    fuse(graph, plan, tier_of(plan))
    node = next(node for node in graph.graph if node.op_type == "QViTBlock")
    assert node.attributes["tier"].as_string() == "quality"
    assert tier_of(replace(plan, provenance={})) == "speed"


def named(graph: ir.Model, name: str) -> ir.Node:
    return next(node for node in graph.graph if node.name == name)


def turn_softmax(graph: ir.Model) -> None:
    named(graph, "blocks.0.attn/Softmax").attributes["axis"] = ir.AttrInt64("axis", 2)


def swap_query_and_key(graph: ir.Model) -> None:
    named(graph, "blocks.0.attn.logits/MatMul").replace_input_with(0, named(graph, "blocks.0.attn.v/Gather").outputs[0])


def look_inside(graph: ir.Model) -> None:
    graph.graph.outputs.append(named(graph, "blocks.0.attn.logits/MatMul").outputs[0])


def order_axes(graph: ir.Model) -> None:
    named(graph, "blocks.0.attn.mix/Transpose").attributes["perm"] = ir.AttrInt64s("perm", [0, 1, 2, 3])


def approximate_gelu(graph: ir.Model) -> None:
    named(graph, "blocks.0.mlp.act/Gelu").attributes["approximate"] = ir.AttrString("approximate", "tanh")


def move_residual(graph: ir.Model) -> None:
    first = named(graph, "blocks.0.attn.residual/Add")
    first.replace_input_with(0, named(graph, "blocks.0.norm1/LayerNormalization").outputs[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (turn_softmax, r"softmax axis is 2"),
        (swap_query_and_key, r"index of q is 2"),
        (look_inside, r"logits/MatMul is used outside"),
        (order_axes, r"order of its axes is \[0, 1, 2, 3\]"),
    ],
)
def test_a_near_miss_stays_and_the_others_are_fused(
    tiny: DinoV2, change: Callable[[ir.Model], None], reason: str
) -> None:
    graph = float_graph(tiny)
    change(graph)
    count, reasons = fuse_attention(graph.graph)
    assert count == 1
    assert len(reasons) == 1
    assert reasons[0].startswith("blocks.0.attn/Softmax: ")
    assert re.search(reason, reasons[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (turn_softmax, "softmax axis is 2"),
        (approximate_gelu, "approximation of GELU is tanh"),
        (move_residual, "first residual connection"),
    ],
)
def test_a_block_that_is_none_says_why(plan: QuantPlan, change: Callable[[ir.Model], None], reason: str) -> None:
    from edgekit.native.fuse_blocks import fuse_blocks

    graph = fusable_graph(plan)
    change(graph)
    count, reasons = fuse_blocks(graph.graph, plan, "speed")
    assert count == 1
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_nothing_fused_is_an_error_with_every_reason(tiny: DinoV2, tiny_swiglu_model: DinoV2, plan: QuantPlan) -> None:
    unfolded = dinov2_graph(tiny.config, state_of(tiny), FloatGemms(state_of(tiny)))
    with pytest.raises(ExportError, match=r"no block could be fused.*goes to Mul, not to Add.*goes to Mul"):
        fuse(unfolded, plan)
    grouped = rtn_plan(tiny, pixels(2), group_size=32)
    with pytest.raises(ExportError, match="has 4 weight scales per output channel"):
        fuse(float_graph(tiny), grouped)
    swiglu = tiny_swiglu_model.bake(*SIZE)
    with pytest.raises(ExportError, match="Split"):
        fuse(float_graph(swiglu), plan)
    empty = float_graph(tiny)
    fuse(empty, None)
    with pytest.raises(ExportError, match="the graph has no Softmax"):
        fuse(empty, None)


def test_the_checker_knows_the_ops_and_forgets_them(plan: QuantPlan) -> None:
    graph = fusable_graph(plan)
    fuse(graph, plan)
    node = next(node for node in graph.graph if node.op_type == "QViTBlock")
    del node.attributes["tier"]
    with known_to_onnx(), pytest.raises(onnx.checker.ValidationError, match="tier"):
        onnx.checker.check_model(ir.to_proto(graph), check_custom_domain=True)
    assert not any(onnx.defs.has(schema.name, schema.domain) for schema in schemas())
