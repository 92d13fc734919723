"""TFLite of integers alone: no float inside, the plan's weights, its ranges, sums that stay in int32, and its drift."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.artifact import Artifact, Preprocess
from edgekit.errors import ExportError
from edgekit.metrics import sqnr_db
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import GemmPlan, PerTokenInput, QuantPlan
from tests.conformance.test_contract import float_activations
from tests.support.metrics import expected
from tests.support.pixels import OBLONG
from tests.support.plans import export_source, rtn_plan

pytest.importorskip("ai_edge_litert")

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekit.backends.tflite.backend import TfliteBackend
from edgekit.backends.tflite.int16.fixed_point import Int16Builder, IoQuantParams, Ranges
from edgekit.backends.tflite.int16.ranges import input_params, observe_ranges, output_params
from edgekit.backends.tflite.int16.verify import verify_integer

QKV = "blocks.0.attn.qkv"
TRANSFORM = Preprocess.for_size(*OBLONG)


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 3, H, W): what normalised pixels can be."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *OBLONG, generator=generator).clamp(-1.8, 2.2)


def export(model: VisionTransformer, plan: QuantPlan, path: Path, transform: Preprocess = TRANSFORM) -> Artifact:
    images = pictures(8)
    if transform.normalize == "graph":
        images = (128 + 50 * images).clamp(0, 255)
    source = export_source(model, transform, plan, calibration=images.numpy())
    return TfliteBackend().export(source, "w8a16", "standard", path / "model_w8a16.tflite")


def tokens(artifact: Artifact, x: torch.Tensor) -> np.ndarray:
    return TfliteBackend().runner(artifact, threads=1)(x.numpy())["last_hidden_state"]


@pytest.fixture(scope="module")
def plan(tiny: VisionTransformer) -> QuantPlan:
    return rtn_plan(tiny, pictures(8), keep_float=("patch_embed.proj",))


@pytest.fixture(scope="module")
def artifact(tiny: VisionTransformer, plan: QuantPlan, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return export(tiny, plan, tmp_path_factory.mktemp("integer"))


def test_no_tensor_is_float_and_input_and_outputs_are_int8(artifact: Artifact) -> None:
    model = schema.ModelT.InitFromPackedBuf(artifact.path.read_bytes(), 0)
    kinds = {tensor.type for tensor in model.subgraphs[0].tensors}
    types = schema.TensorType
    assert kinds == {types.INT8, types.INT16, types.INT32, types.INT64}
    assert {spec.dtype for spec in (*artifact.inputs, *artifact.outputs)} == {"int8"}
    opened = Interpreter(model_path=str(artifact.path))
    assert {d["dtype"] for d in (*opened.get_input_details(), *opened.get_output_details())} == {np.int8}
    assert any("patch_embed.proj is int8 too" in note for note in artifact.notes)


def test_only_weights_and_int8_outputs_cost_much(artifact: Artifact, plan: QuantPlan, tiny: VisionTransformer) -> None:
    """Against the plan's weights under float activations: what int8 outputs and int16 between lose, on new images."""
    x = pictures(4, seed=1)
    reference = expected(float_activations(plan), x)
    assert sqnr_db(reference, tokens(artifact, x)) > 30
    assert sqnr_db(expected(tiny, x), tokens(artifact, x)) > 25


def test_images_see_each_other_as_little_as_in_float(artifact: Artifact) -> None:
    x = pictures(3, seed=2)
    np.testing.assert_array_equal(tokens(artifact, x)[1:2], tokens(artifact, x[1:2]))


def test_swiglu_rotation_and_gains(
    tiny_swiglu_model: VisionTransformer, tiny: VisionTransformer, tmp_path: Path
) -> None:
    swiglu = tiny_swiglu_model.bake(*OBLONG)
    gated = rtn_plan(swiglu, pictures(8))
    assert sqnr_db(expected(swiglu, pictures(2, 1)), tokens(export(swiglu, gated, tmp_path), pictures(2, 1))) > 25
    changed = deepcopy(tiny)
    generator = torch.Generator().manual_seed(1)
    width, hidden = tiny.config.width, tiny.config.ffn_hidden
    changed.unrotate = torch.nn.Parameter(torch.randn(width, width, generator=generator) / width**0.5)
    changed.blocks[0].mlp.fc2_gain = torch.nn.Parameter(1 + torch.rand(hidden, generator=generator))
    changed.blocks[1].attn.scale = 0.05
    rewritten = rtn_plan(changed, pictures(8))
    assert sqnr_db(expected(changed, pictures(2, 1)), tokens(export(changed, rewritten, tmp_path), pictures(2, 1))) > 25


def test_rgb_goes_in_as_it_is(tiny: VisionTransformer, tmp_path: Path) -> None:
    """256 levels in, one integer each."""
    from edgekit.surgery.fold_normalization import fold_normalization

    model, transform = deepcopy(tiny), TRANSFORM.model_copy(update={"normalize": "graph"})
    fold_normalization(model, transform.mean, transform.std)
    x = (128 + 50 * pictures(2, seed=1)).clamp(0, 255).round()
    rgb_plan = rtn_plan(model, x)
    made = export(model, rgb_plan, tmp_path, transform)
    assert input_params(transform) == IoQuantParams(1.0, -128)
    assert sqnr_db(expected(model, x), tokens(made, x)) > 25


def _other_integer(gemm: GemmPlan) -> GemmPlan:
    weight = gemm.weight.copy()
    weight[0, 0] += 1 if weight[0, 0] < 0 else -1
    return replace(gemm, weight=weight)


@pytest.mark.parametrize("name", [QKV, "patch_embed.proj"])
def test_read_back_finds_any_other_number(name: str, tiny: VisionTransformer, tmp_path: Path) -> None:
    whole = rtn_plan(tiny, pictures(8))
    path, x = export(tiny, whole, tmp_path).path, pictures(2).numpy()
    right = expected(float_activations(whole), pictures(2))
    assert verify_integer(path, whole, x, right) > 30
    changes = {
        "other integers": _other_integer,
        "other weight scales": lambda gemm: replace(gemm, weight_scale=gemm.weight_scale * np.float32(1.001)),
        "another bias": lambda gemm: replace(gemm, bias_dynamic=gemm.bias_dynamic + np.float32(1e-2)),
    }
    for words, change in changes.items():
        other = replace(whole, gemms=whole.gemms | {name: change(whole.gemms[name])})
        with pytest.raises(ExportError, match=f"{name} has {words}"):
            verify_integer(path, other, x, right)
    with pytest.raises(ExportError, match="dB on images that it was calibrated on"):
        verify_integer(path, whole, x, right[::-1])


def test_sums_beyond_int32_are_kept_from_wrapping() -> None:
    """Weights and inputs all at their ends: 2^31 would be passed four times over."""
    width = 2048
    gemm = GemmPlan(
        "sum",
        np.full((2, width), 127, np.int8),
        np.full((2, 1), 0.01, np.float32),
        8,
        np.zeros(2, np.float32),
        np.zeros(2, np.float32),
        PerTokenInput(),
    )
    largest = width * 1.27
    builder = Int16Builder(Ranges({"x": 0.5, "sum": largest / 2}, {}, {"pixel_values": IoQuantParams(1 / 128, 0)}))
    given = builder.input("pixel_values", (-1, 1, width))
    x = builder.op("QUANTIZE", "x", [given], given.shape, options=schema.QuantizeOptionsT())
    made = builder.linear(gemm, x)
    opened = Interpreter(model_content=builder.graph.serialize(builder.inputs, {"sum": made}, "sum", {}))
    opened.allocate_tensors()
    opened.set_tensor(opened.get_input_details()[0]["index"], np.full((1, 1, width), 127, np.int8))
    opened.invoke()
    (detail,) = opened.get_output_details()
    actual = opened.get_tensor(detail["index"]) * np.float64(detail["quantization"][0])
    np.testing.assert_allclose(actual, largest * 127 / 128, rtol=2e-3)


def test_ranges_are_those_of_torch(tiny: VisionTransformer, plan: QuantPlan) -> None:
    x = pictures(4)
    ranges, hidden = observe_ranges(plan, x.numpy(), TRANSFORM)
    model, seen = float_activations(plan), {}
    first = model.patch_embed.proj
    integers = first.weight.data.flatten(1)
    scale = integers.abs().amax(1, keepdim=True) / 127
    first.weight.data = ((integers / scale).round() * scale).reshape(first.weight.shape)
    model.blocks[1].mlp.fc1.register_forward_hook(lambda _, __, y: seen.update(fc1=y))
    reference = expected(model, x)
    assert ranges.abs_max["blocks.1.mlp.fc1"] == pytest.approx(float(seen["fc1"].abs().max()), rel=1e-3)
    assert sqnr_db(reference, hidden) > 50  # GELU in its tanh form
    assert ranges.minima["norm.inverse"] > 0


def test_an_output_keeps_the_range_that_costs_least() -> None:
    x = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    params = output_params(x)
    assert params.scale * 255 < np.ptp(x)  # tails are worth less than finer steps
    whole = IoQuantParams.from_range(float(x.min()), float(x.max()))
    assert sqnr_db(x, params.fake_quantize(x)) > sqnr_db(x, whole.fake_quantize(x))


def test_it_needs_images_and_leaves_heads_out(tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path) -> None:
    source = export_source(tiny, TRANSFORM, plan)
    with pytest.raises(ExportError, match="needs calibration images"):
        TfliteBackend().export(source, "w8a16", "standard", tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
    grouped = rtn_plan(tiny, pictures(8), group_size=32)
    with pytest.raises(ExportError, match="weight scales per output channel"):
        export(tiny, grouped, tmp_path)


def test_the_audit_counts_int16(artifact: Artifact) -> None:
    audit = TfliteBackend().audit(artifact)
    assert (audit["gemms"], audit["gemms_int16"], audit["gemms_int8"], audit["gemms_float"]) == (9, 9, 0, 0)
    assert (audit["attention_products_int16"], audit["attention_products_float"]) == (4, 0)
    assert audit["partitions"] == 0
