"""The Core ML backend beyond the contract: targets, every precision's numbers, the read-back, running on macOS."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES, Artifact, Preprocess
from edgekit.backends.metadata import MANIFEST_KEY
from edgekit.errors import DataError, ExportError
from edgekit.metrics import sqnr_db
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import GemmPlan, QuantPlan, StaticInput
from edgekit.precision import Precision
from edgekit.quantization.simulate import simulate
from edgekit.surgery import restore
from tests.support.metrics import expected
from tests.support.pixels import OBLONG, noise
from tests.support.plans import export_source, export_to, rtn_plan

pytest.importorskip("coremltools")

from edgekit.backends.coreml import norms as coreml_norms
from edgekit.backends.coreml.backend import CoreMlBackend
from edgekit.backends.coreml.builder import Target
from edgekit.backends.coreml.gemms import row_gains
from edgekit.backends.coreml.package import read_batch, read_function, read_metadata
from edgekit.backends.coreml.runner import CoreMlRunner
from edgekit.backends.coreml.verify import verify_plan

pixels = partial(noise, OBLONG)
QKV = "blocks.0.attn.qkv"


def export(
    model: VisionTransformer,
    folder: Path,
    precision: Precision,
    plan: QuantPlan | None = None,
    target: Target = "iOS18",
) -> Artifact:
    return export_to(folder, CoreMlBackend(target=target), model, precision, plan)


def tokens(artifact: Artifact, x: torch.Tensor) -> np.ndarray:
    return CoreMlBackend().runner(artifact)(x.numpy())["last_hidden_state"]


@pytest.mark.parametrize(("target", "fused"), [("iOS18", 2), ("iOS17", 0)])
def test_attention_is_one_operation_from_ios_18_on(
    target: Target, fused: int, tiny: VisionTransformer, tmp_path: Path
) -> None:
    artifact = export(tiny, tmp_path, "fp32", target=target)
    audit = CoreMlBackend().audit(artifact)
    assert (audit["attention_fused"], audit["attention_decomposed"]) == (fused, 2 - fused)
    assert np.abs(tokens(artifact, pixels()) - expected(tiny, pixels())).max() < 1e-4


def test_any_attention_scale_and_rewritten_models(tiny: VisionTransformer, tmp_path: Path) -> None:
    """The operation divides by sqrt(d) by itself: what the model wants instead goes into the query rows."""
    changed = deepcopy(tiny)
    generator = torch.Generator().manual_seed(1)
    width, hidden = tiny.config.width, tiny.config.ffn_hidden
    changed.blocks[0].attn.scale = 0.3
    changed.unrotate = torch.nn.Parameter(torch.randn(width, width, generator=generator) / width**0.5)
    changed.blocks[0].mlp.fc2_gain = torch.nn.Parameter(1 + torch.rand(hidden, generator=generator))
    for target in ("iOS18", "iOS17"):
        actual = tokens(export(changed, tmp_path, "fp32", target=target), pixels())
        assert np.abs(actual - expected(changed, pixels())).max() < 1e-4


@pytest.mark.parametrize(
    ("inputs", "target"), [(None, "iOS17"), (None, "iOS18"), ("token_groups", "iOS18"), ("token_scaled", "iOS17")]
)
def test_a_flexible_batch_computes_what_a_fixed_one_does(
    inputs: str | None, target: Target, tiny: VisionTransformer, tmp_path: Path
) -> None:
    precision: Precision = "w8a8" if inputs else "fp32"
    whole = rtn_plan(tiny, pixels(8), inputs=inputs) if inputs else None
    source = export_source(tiny, Preprocess.for_size(*OBLONG), whole)
    paths = [tmp_path / f"{name}.mlpackage" for name in ("fixed", "open", "again")]
    fixed, flexible, again = (
        CoreMlBackend(target, batch).export(source, precision, "standard", path)
        for path, batch in zip(paths, (1, 4, 4), strict=True)
    )
    assert (fixed.inputs[0].shape[0], flexible.inputs[0].shape[0]) == (1, "batch")
    assert {spec.shape[0] for spec in flexible.outputs} == {"batch"}
    assert read_batch(flexible.path) == 4
    assert flexible.sha256 == again.sha256
    x = pixels(6, seed=2)
    one, many = tokens(fixed, x), tokens(flexible, x)
    assert sqnr_db(one, many) > (100 if precision == "fp32" else 40)
    audits = [CoreMlBackend().audit(artifact) for artifact in (fixed, flexible)]
    assert len({audit["gemms_int8"] for audit in audits}) == 1
    assert len({audit["attention_fused"] for audit in audits}) == 1


def test_macos_is_fed_as_many_images_as_fit(tiny: VisionTransformer, tmp_path: Path) -> None:
    source = export_source(tiny, Preprocess.for_size(*OBLONG), None)
    artifact = CoreMlBackend(batch=4).export(source, "fp32", "standard", tmp_path / "model.mlpackage")
    fed = []

    def predict(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed.append(inputs[INPUT_NAME])
        return {
            name: np.tile(
                inputs[INPUT_NAME].mean(axis=(1, 2, 3)).reshape(-1, *[1] * (len(spec.shape) - 1)), (1, *spec.shape[1:])
            )
            for name, spec in zip(OUTPUT_NAMES, artifact.outputs, strict=True)
        }

    x = pixels(6).numpy()
    outputs = CoreMlRunner(artifact, predict)(x)
    assert [len(images) for images in fed] == [4, 2]
    np.testing.assert_allclose(outputs["pooler_output"][:, 0], x.mean(axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize("inputs", ["static", "token_groups", "token_scaled"])
def test_every_static_quantizer_is_the_plans(inputs: str, tiny: VisionTransformer, tmp_path: Path) -> None:
    """On one GEMM, so that nothing amplifies rounding; what is left is that of float16."""
    whole = rtn_plan(tiny, pixels(8), inputs=inputs)
    for name in (QKV, "blocks.1.mlp.fc1"):
        plan = replace(whole, gemms={name: whole.gemms[name]})
        for target in ("iOS18", "iOS17"):
            artifact = export(tiny, tmp_path, "w8a8", plan, target)
            assert sqnr_db(expected(simulate(plan), pixels()), tokens(artifact, pixels())) > 46
            assert CoreMlBackend().audit(artifact)["gemms_int8"] == 1


@pytest.mark.parametrize("zero_points", [False, True])
def test_four_bit_weights_in_groups(tiny: VisionTransformer, tmp_path: Path, zero_points: bool) -> None:
    plan = rtn_plan(tiny, pixels(8), bits=4, group_size=32, zero_points=zero_points)
    artifact = export(tiny, tmp_path, "w4a8", plan)
    assert sqnr_db(expected(simulate(plan), pixels()), tokens(artifact, pixels())) > 30
    other = replace(plan, gemms=plan.gemms | {QKV: _other_weight_zero_point(plan.gemms[QKV])})
    with pytest.raises(ExportError, match=f"{QKV} has other weight zero points"):
        verify_plan(artifact.path, other, row_gains(plan.config, plan.float_tensors, "iOS18"), "w4a8")
    eight = export(tiny, tmp_path, "w8a8", rtn_plan(tiny, pixels(8)))
    assert artifact.size_mb < 0.75 * eight.size_mb
    weights_only = export(tiny, tmp_path, "w4", plan)
    audit = CoreMlBackend().audit(weights_only)
    assert (audit["gemms_integer_weights"], audit["gemms_int8"]) == (len(plan.gemms), 0)
    module = restore(plan.config, plan.float_tensors)
    for name, gemm in plan.gemms.items():
        linear = module.get_submodule(name)
        linear.weight.data = torch.from_numpy(gemm.dequantized()).reshape(linear.weight.shape)
    assert sqnr_db(expected(module, pixels()), tokens(weights_only, pixels())) > 45


def test_a_gemm_that_the_plan_keeps_float_stays_float(tiny: VisionTransformer, tmp_path: Path) -> None:
    plan = rtn_plan(tiny, pixels(8), keep_float=("blocks.0.mlp.fc2", "patch_embed.proj"))
    artifact = export(tiny, tmp_path, "w8a8", plan)
    audit = CoreMlBackend().audit(artifact)
    assert (audit["gemms_int8"], audit["gemms_float"]) == (len(plan.gemms), 2)
    assert any("blocks.0.mlp.fc2 stays float" in note for note in artifact.notes)


def test_positions_tokens_and_sums_are_never_quantized(
    tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path
) -> None:
    operations = list(read_function(export(tiny, tmp_path, "w8a8", plan).path).operations)
    for op in operations:
        if op.op_type == "dequantize":
            assert {child.op_type for child in op.outputs[0].child_ops} <= {"linear", "conv"}
        if op.op_type.startswith("constexpr_"):
            assert {child.op_type for child in op.outputs[0].child_ops} <= {"linear", "conv"}


def _other_integer(gemm: GemmPlan) -> GemmPlan:
    weight = gemm.weight.copy()
    weight[0, 0] += 1 if weight[0, 0] < 0 else -1
    return replace(gemm, weight=weight)


def _other_weight_zero_point(gemm: GemmPlan) -> GemmPlan:
    zero = np.zeros(gemm.weight_scale.shape, np.int8) if gemm.weight_zero_point is None else gemm.weight_zero_point
    return replace(gemm, weight_zero_point=zero + np.int8(1))


def _other_zero_point(gemm: GemmPlan) -> GemmPlan:
    assert isinstance(gemm.input, StaticInput)
    return replace(gemm, input=replace(gemm.input, zero_point=gemm.input.zero_point + 1))


@pytest.mark.parametrize("target", ["iOS18", "iOS17"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_integer, "other integers"),
        (lambda gemm: replace(gemm, weight_scale=gemm.weight_scale * np.float32(1.01)), "other weight scales"),
        (lambda gemm: replace(gemm, bias=gemm.bias + np.float32(0.1)), "another bias"),
        (_other_zero_point, "another input quantizer"),
    ],
)
def test_read_back_finds_any_other_number(
    change: Callable[[GemmPlan], GemmPlan],
    words: str,
    target: Target,
    tiny: VisionTransformer,
    plan: QuantPlan,
    tmp_path: Path,
) -> None:
    path = export(tiny, tmp_path, "w8a8", plan, target).path
    gains = row_gains(plan.config, plan.float_tensors, target)
    assert verify_plan(path, plan, gains, "w8a8") == len(plan.gemms)
    for name in (QKV, "patch_embed.proj"):
        other = replace(plan, gemms=plan.gemms | {name: change(plan.gemms[name])})
        with pytest.raises(ExportError, match=f"{name} has {words}"):
            verify_plan(path, other, gains, "w8a8")
    fewer = replace(plan, gemms={name: gemm for name, gemm in plan.gemms.items() if name != QKV})
    with pytest.raises(ExportError, match="is quantized and the plan keeps it float"):
        verify_plan(path, fewer, gains, "w8a8")


def test_what_core_ml_cannot_express_is_refused(tiny: VisionTransformer, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="per_token input quantizer"):
        export(tiny, tmp_path, "w8a8", rtn_plan(tiny, pixels(8), inputs="per_token"))
    with pytest.raises(ExportError, match="weights in groups"):
        export(tiny, tmp_path, "w8", rtn_plan(tiny, pixels(8), group_size=32), "iOS17")
    large = deepcopy(tiny)
    with torch.no_grad():
        large.blocks[0].mlp.fc1.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match="float16 cannot"):
        export(large, tmp_path, "fp16")
    assert list(tmp_path.iterdir()) == []


def test_large_norm_inputs_do_not_overflow(
    tiny: VisionTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outlier of 3000 squares to more than float16 holds: the exported program shrinks it first."""
    loud = deepcopy(tiny)
    with torch.no_grad():
        loud.blocks[0].mlp.fc2.bias[5] += 3000
    artifact = export(loud, tmp_path, "fp16")
    shrunk = [op.outputs[0].name for op in read_function(artifact.path).operations if op.op_type == "mul"]
    assert shrunk == ["blocks_1_norm1_shrunk", "blocks_1_norm2_shrunk", "norm_shrunk"]
    assert sqnr_db(expected(loud, pixels()), tokens(artifact, pixels())) > 40
    assert not [op for op in read_function(export(tiny, tmp_path, "fp16").path).operations if op.op_type == "mul"]
    monkeypatch.setattr(coreml_norms, "SAFE", 1e9)
    with pytest.raises(ExportError, match="the fp16 file reaches"):
        export(loud, tmp_path, "fp16")


def test_weights_of_rgb_models_stay_in_float16s_normal_numbers(tiny: VisionTransformer, tmp_path: Path) -> None:
    """Normalisation folded into the patch embedding makes its weights 57 times smaller: their scales lose no bits."""
    from edgekit.surgery.fold_normalization import fold_normalization

    rgb = deepcopy(tiny)
    preprocess = Preprocess.for_size(*OBLONG, normalize="graph")
    fold_normalization(rgb, preprocess.mean, preprocess.std)
    x = torch.rand(8, 3, *OBLONG, generator=torch.Generator().manual_seed(0)) * 255
    plan = rtn_plan(rgb, x)
    plan = replace(plan, gemms={"patch_embed.proj": plan.gemms["patch_embed.proj"]})
    source = export_source(rgb, preprocess, plan)
    artifact = CoreMlBackend().export(source, "w8a8", "standard", tmp_path / "model_w8a8.mlpackage")
    convolution = next(op for op in read_function(artifact.path).operations if op.op_type == "conv")
    assert convolution.weight.op.scale.val.min() > np.finfo(np.float16).smallest_normal
    assert sqnr_db(expected(simulate(plan), x[:2]), tokens(artifact, x[:2])) > 46


def test_metadata_names_the_model_and_no_date(tiny: VisionTransformer, tmp_path: Path) -> None:
    path = export(tiny, tmp_path, "fp32").path
    metadata = read_metadata(path)
    assert metadata["model"] == "tiny"
    assert not [key for key in metadata if "date" in key]
    _without_manifest(path)
    with pytest.raises(DataError, match="was not written by edgekit"):
        CoreMlBackend().read(path)


def _without_manifest(path: Path) -> None:
    file = path / "Data/com.apple.CoreML/model.mlmodel"
    file.write_bytes(file.read_bytes().replace(MANIFEST_KEY.encode(), b"x" * len(MANIFEST_KEY)))


@pytest.mark.full
def test_vit_b_and_registers(wide_demo_model: VisionTransformer, tmp_path: Path) -> None:
    """A ViT-B/14 that is the demo twice over, with 4 registers put in."""
    wide = VisionTransformer(replace(wide_demo_model.config, registers=4)).eval()
    wide.load_state_dict(wide_demo_model.state_dict(), strict=False)
    wide = wide.bake(*OBLONG)
    plan = rtn_plan(wide, pixels(4))
    assert sqnr_db(expected(wide, pixels()), tokens(export(wide, tmp_path, "fp16"), pixels())) > 40
    artifact = export(wide, tmp_path, "w8a8", plan)
    assert 85 < artifact.size_mb < 95
    assert sqnr_db(expected(simulate(plan), pixels()), tokens(artifact, pixels())) > 20


def test_macos_is_fed_one_image_after_the_other(tiny: VisionTransformer, tmp_path: Path) -> None:
    """The calling convention of Core ML's `predict`, which only macOS has: a stand-in takes its place."""
    artifact = export(tiny, tmp_path, "fp32")
    fed = []

    def predict(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed.append(inputs[INPUT_NAME])
        first = inputs[INPUT_NAME].mean()
        return {
            name: np.full((1, *spec.shape[1:]), first)
            for name, spec in zip(OUTPUT_NAMES, artifact.outputs, strict=True)
        }

    runner = CoreMlRunner(artifact, predict)
    x = pixels(3).numpy()
    outputs = runner(x)
    assert not runner.interpreted
    assert [value.shape for value in fed] == [(1, 3, *OBLONG)] * 3
    assert {value.dtype for value in fed} == {np.dtype(np.float32)}
    assert outputs["pooler_output"].dtype == np.float32
    np.testing.assert_allclose(outputs["pooler_output"][:, 0], x.mean(axis=(1, 2, 3)), rtol=1e-4)
