"""The OpenVINO backend: parity with torch and the simulator, the contract, the bytes, and what goes wrong loudly."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.openvino.backend import OpenVinoBackend
from edgekit.backends.openvino.runner import int8_saturates
from edgekit.backends.source import ExportSource
from edgekit.errors import DataError, ExportError
from edgekit.files import sha256_of
from edgekit.metrics import sqnr_db
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import QuantPlan, StaticInput, dither
from edgekit.precision import Precision
from edgekit.quantization.simulate import simulate
from edgekit.surgery import restore
from edgekit.workflows.compare import latency_of
from tests.support.cpu import int8_gemms
from tests.support.metrics import expected
from tests.support.pixels import OBLONG, noise
from tests.support.plans import export_source, rtn_plan

pytest.importorskip("openvino")

from edgekit.backends.openvino.runner import OpenVinoRunner, read_model

pixels = partial(noise, OBLONG)


def source(model: VisionTransformer, plan: QuantPlan | None = None) -> ExportSource:
    return export_source(model, Preprocess.for_size(*OBLONG), plan)


def export(
    model: VisionTransformer, path: Path, precision: Precision = "fp32", plan: QuantPlan | None = None
) -> Artifact:
    return OpenVinoBackend().export(source(model, plan), precision, "standard", path)


def run(artifact: Artifact, x: torch.Tensor) -> dict[str, np.ndarray]:
    return OpenVinoBackend().runner(artifact, threads=1)(x.numpy())


@pytest.fixture(scope="module", params=["tiny_model", "tiny_reg_model", "tiny_swiglu_model"])
def baked(request: pytest.FixtureRequest) -> VisionTransformer:
    return request.getfixturevalue(request.param).bake(*OBLONG)


def test_fp32_equals_torch_for_any_batch(baked: VisionTransformer, tmp_path: Path) -> None:
    artifact = export(baked, tmp_path / "model.xml")
    for batch in (1, 3):
        x = pixels(batch)
        outputs = run(artifact, x)
        hidden = expected(baked, x)
        assert np.abs(outputs["last_hidden_state"] - hidden).max() < 1e-4
        np.testing.assert_array_equal(outputs["pooler_output"], outputs["last_hidden_state"][:, 0])


def test_rotated_model_keeps_its_function(tiny: VisionTransformer, tmp_path: Path) -> None:
    from edgekit.surgery.fold_layerscale import fold_layerscale
    from edgekit.surgery.rotate import mean_preserving_rotation, rotate

    rotated = tiny.bake(*OBLONG)
    fold_layerscale(rotated)
    rotate(rotated, mean_preserving_rotation(tiny.config.width))
    outputs = run(export(rotated, tmp_path / "model.xml"), pixels())
    assert sqnr_db(expected(tiny, pixels()), outputs["last_hidden_state"]) > 90


def test_fp16_halves_the_file_and_keeps_the_features(tiny: VisionTransformer, tmp_path: Path) -> None:
    full, half = export(tiny, tmp_path / "model.xml"), export(tiny, tmp_path / "model_fp16.xml", "fp16")
    assert half.size_mb < 0.6 * full.size_mb
    assert sqnr_db(expected(tiny, pixels()), run(half, pixels())["last_hidden_state"]) > 50


def test_every_single_gemm_equals_the_simulator(baked: VisionTransformer, tmp_path: Path) -> None:
    """One quantized GEMM at a time: later quantizers would turn float rounding into flipped integers."""
    whole = rtn_plan(baked, pixels(8))
    x = pixels()
    for name, gemm in whole.gemms.items():
        alone = replace(whole, gemms={name: gemm})
        outputs = run(export(baked, tmp_path / "model.xml", "w8a8", alone), x)
        assert sqnr_db(expected(simulate(alone), x), outputs["last_hidden_state"]) > 60, name


@pytest.mark.parametrize("kind", ["static", "token_groups", "token_scaled"])
def test_w8a8_equals_the_simulator(tiny: VisionTransformer, tmp_path: Path, kind: str) -> None:
    quantized = rtn_plan(tiny, pixels(8), inputs=kind)
    hidden = run(export(tiny, tmp_path / "model.xml", "w8a8", quantized), pixels())["last_hidden_state"]
    assert sqnr_db(expected(simulate(quantized), pixels()), hidden) > 45
    assert 15 < sqnr_db(expected(tiny, pixels()), hidden) < 45  # and it is quantized


@pytest.mark.parametrize("group_size", [None, 32])
def test_w8_keeps_activations_float(tiny: VisionTransformer, tmp_path: Path, group_size: int | None) -> None:
    quantized = rtn_plan(tiny, pixels(8), group_size=group_size)
    reference = restore(quantized.config, quantized.float_tensors)
    for name, gemm in quantized.gemms.items():
        module = reference.get_submodule(name)
        module.weight.data = torch.from_numpy(gemm.dequantized()).reshape(module.weight.shape)
    artifact = export(tiny, tmp_path / "model.xml", "w8", quantized)
    assert sqnr_db(expected(reference, pixels()), run(artifact, pixels())["last_hidden_state"]) > 90


def test_audit_finds_every_planned_gemm_in_int8(tiny: VisionTransformer, tmp_path: Path) -> None:
    kept = rtn_plan(tiny, pixels(8), keep_float=("blocks.1.mlp.w3", "blocks.1.mlp.fc2"))
    artifact = export(tiny, tmp_path / "model.xml", "w8a8", kept)
    audit = OpenVinoBackend().audit(artifact)
    in_int8 = int8_gemms("openvino", 8)
    assert len(audit["planned_but_not_int8"]) == 8 - in_int8
    assert (audit["gemms"], audit["gemms_int8"]) == (9, in_int8)
    assert (audit["attention_blocks"], audit["attention_fused"]) == (2, 2)
    assert any("blocks.1.mlp.fc2 stays float" in note for note in artifact.notes)


def test_audit_of_float_and_weight_only_files(tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path) -> None:
    float_audit = OpenVinoBackend().audit(export(tiny, tmp_path / "model.xml"))
    assert (float_audit["gemms_float"], float_audit["gemms_int8"], float_audit["gemms_untraced"]) == (9, 0, 0)
    weight_audit = OpenVinoBackend().audit(export(tiny, tmp_path / "model_w8.xml", "w8", plan))
    assert (weight_audit["gemms_int8"], weight_audit["gemms_untraced"]) == (0, 0)


def test_integer_attention_equals_its_formula(tiny: VisionTransformer, tmp_path: Path) -> None:
    whole = rtn_plan(tiny, pixels(8), level="all")
    name, matmul = next(iter(whole.matmuls.items()))
    alone = replace(whole, gemms={}, matmuls={name: matmul})
    hidden = run(export(tiny, tmp_path / "model.xml", "w8a8", alone), pixels())["last_hidden_state"]
    model = restore(alone.config, alone.float_tensors)
    attention = model.get_submodule(name)

    def mix(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            torch.round(x / torch.from_numpy(s)[:, None, None]).clamp(-127, 127).double()
            for x, s in ((q, matmul.query_scale), (k, matmul.key_scale), (v, matmul.value_scale))
        )
        scale = torch.from_numpy(matmul.query_scale * matmul.key_scale)[:, None, None]
        logits = (q @ k.mT).float() * scale
        offsets = torch.from_numpy(dither(k.shape[-2], 1.0))
        p = torch.round(torch.exp(logits - logits.amax(-1, keepdim=True)) * 255 + offsets).clamp(0, 255).double()
        mixed = (p @ v).float() * torch.from_numpy(matmul.value_scale)[:, None, None] / p.sum(-1, keepdim=True)
        return mixed.float().transpose(1, 2).flatten(2)

    attention.__dict__["mix"] = mix
    # where u8*s8 products saturate, the plugin's int8 attention does: 52.7 dB on an AVX2 CPU without VNNI
    assert sqnr_db(expected(model, pixels()), hidden) > (50 if int8_saturates() else 60)
    assert sqnr_db(expected(tiny, pixels()), hidden) < 50


def test_same_inputs_give_the_same_bytes(tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path) -> None:
    for precision in ("fp32", "fp16", "w8", "w8a8"):
        first = export(tiny, tmp_path / "a" / "model.xml", precision, plan)
        second = export(tiny, tmp_path / "b" / "model.xml", precision, plan)
        assert first.sha256 == second.sha256 == sha256_of(second.path)


def test_the_artifact_describes_the_file(tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path) -> None:
    artifact = export(tiny, tmp_path / "model_w8a8.xml", "w8a8", plan)
    model = read_model(artifact.path)
    assert [port.any_name for port in model.inputs] == [spec.name for spec in artifact.inputs]
    assert [port.any_name for port in model.outputs] == [spec.name for spec in artifact.outputs]
    assert model.input(0).get_partial_shape()[0].is_dynamic
    assert artifact.outputs[0].shape == ("batch", 1 + 4 + 5 * 4, 128)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model_w8a8.bin", "model_w8a8.xml"]
    assert model.get_rt_info(["model_info", "mean_values"]).astype(str) == "123.675 116.28 103.53"


def test_a_file_that_is_not_the_plan_is_refused(tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path) -> None:
    from edgekit.backends.openvino.verify import verify_plan

    artifact = export(tiny, tmp_path / "model.xml", "w8a8", plan)
    assert verify_plan(artifact.path, plan, "w8a8") == len(plan.gemms)
    name, gemm = next(iter(plan.gemms.items()))
    weight = gemm.weight.copy()
    weight[0, 0] += 1
    quantizer = gemm.input
    assert isinstance(quantizer, StaticInput)
    for changed, words in (
        (replace(gemm, weight=weight), f"{name}.weight differs"),
        (replace(gemm, input=replace(quantizer, zero_point=quantizer.zero_point + 1)), f"{name}.input_low differs"),
        (replace(gemm, bias=gemm.bias + 1), f"{name}.bias differs"),
    ):
        with pytest.raises(ExportError, match=words):
            verify_plan(artifact.path, replace(plan, gemms=plan.gemms | {name: changed}), "w8a8")


def test_what_cannot_be_expressed_is_refused_and_leaves_nothing(tiny: VisionTransformer, tmp_path: Path) -> None:
    per_token = rtn_plan(tiny, pixels(8), inputs="per_token")
    with pytest.raises(ExportError, match="per_token"):
        export(tiny, tmp_path / "model.xml", "w8a8", per_token)
    with pytest.raises(ExportError, match="plan"):
        export(tiny, tmp_path / "model.xml", "w8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["no bin", "short bin", "garbage xml"])
def test_damaged_files_are_data_errors(tiny: VisionTransformer, tmp_path: Path, damage: str) -> None:
    artifact = export(tiny, tmp_path / "model.xml")
    weights = artifact.path.with_suffix(".bin")
    match damage:
        case "no bin":
            weights.unlink()
        case "short bin":
            weights.write_bytes(weights.read_bytes()[:1000])
        case _:
            artifact.path.write_text("not xml", encoding="utf-8")
    with pytest.raises(DataError, match=r"model\.(xml|bin)"):
        OpenVinoBackend().runner(artifact)


def test_throughput_streams_keep_the_order(tiny: VisionTransformer, tmp_path: Path) -> None:
    artifact = export(tiny, tmp_path / "model.xml")
    x = pixels(5).numpy()
    one_by_one = OpenVinoBackend().runner(artifact, 1)(x)
    spread = OpenVinoBackend(hint="throughput").runner(artifact, 2)(x)
    for name, values in one_by_one.items():
        np.testing.assert_allclose(spread[name], values, atol=1e-5)


def test_bench_spreads_a_batch_when_asked_to(tiny: VisionTransformer, tmp_path: Path) -> None:
    run = latency_of([export(tiny, tmp_path / "model.xml")], batch=2, threads=2, rounds=3, hint="throughput")
    (report,) = run.reports.values()
    assert (report.name, report.batch, report.threads) == ("openvino/fp32 (throughput)", 2, 2)
    assert run.failures == {}


def test_threads_and_cache_are_honoured(tiny: VisionTransformer, tmp_path: Path) -> None:
    artifact = export(tiny, tmp_path / "model.xml")
    runner = OpenVinoBackend(cache_dir=tmp_path / "cache").runner(artifact, threads=1)
    assert isinstance(runner, OpenVinoRunner)
    assert runner.compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert list((tmp_path / "cache").glob("*.blob"))


def test_importing_the_backend_loads_no_runtime() -> None:
    code = "import sys, edgekit.backends.openvino.backend as b; b.OpenVinoBackend().missing(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"openvino", "torch"} & set(loaded)


def test_a_gemm_with_token_groups_counts_once(tiny: VisionTransformer, tmp_path: Path) -> None:
    grouped = rtn_plan(tiny, pixels(8), inputs="token_groups", keep_float=("blocks.1.mlp.fc1",))
    audit = OpenVinoBackend().audit(export(tiny, tmp_path / "model.xml", "w8a8", grouped))
    assert (audit["gemms"], audit["gemms_int8"]) == (9, int8_gemms("openvino", 8))
