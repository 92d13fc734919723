"""The ONNX backend: every quantizer a plan may hold, both storages of weights, read-back that refuses, large files."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit import cpu
from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.onnx import backend as onnx_backend
from edgekit.backends.onnx import runner as onnx_runner
from edgekit.backends.onnx.backend import OnnxBackend, storage_for
from edgekit.backends.onnx.verify import verify_plan
from edgekit.backends.source import ExportSource, Overflow
from edgekit.errors import ExportError
from edgekit.files import files_of, sha256_of
from edgekit.metrics import sqnr_db
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import GemmPlan, QuantPlan, StaticInput
from edgekit.precision import Precision, Variant
from edgekit.quantization.simulate import simulate
from edgekit.surgery import restore
from tests.support.metrics import expected
from tests.support.pixels import OBLONG, noise
from tests.support.plans import export_source, rtn_plan

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

pixels = partial(noise, OBLONG)


def source(model: VisionTransformer, plan: QuantPlan | None, overflow: Overflow = "auto") -> ExportSource:
    preprocess = Preprocess.for_size(*OBLONG)
    return export_source(model, preprocess, plan, overflow)


def export(
    model: VisionTransformer, path: Path, precision: Precision, plan: QuantPlan, overflow: Overflow = "auto"
) -> Artifact:
    return OnnxBackend().export(source(model, plan, overflow), precision, "standard", path)


def run(artifact: Artifact) -> np.ndarray:
    return OnnxBackend().runner(artifact, threads=1)(pixels().numpy())["last_hidden_state"]


@pytest.fixture(scope="module")
def plan(tiny: VisionTransformer) -> QuantPlan:
    return rtn_plan(tiny, pixels(8, seed=1))


@pytest.mark.parametrize("kind", ["static", "token_groups", "token_scaled", "per_token"])
@pytest.mark.parametrize("overflow", ["none", "u8u8"])
def test_every_gemm_alone_equals_the_simulator(
    tiny: VisionTransformer, tmp_path: Path, kind: str, overflow: Overflow
) -> None:
    """One quantized GEMM at a time: later quantizers would turn float rounding into flipped integers."""
    whole = rtn_plan(tiny, pixels(8, seed=1), inputs=kind)
    for name in ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.mlp.fc1", "blocks.1.mlp.fc2"):
        alone = replace(whole, gemms={name: whole.gemms[name]})
        artifact = export(tiny, tmp_path / "model.onnx", "w8a8", alone, overflow)
        assert sqnr_db(expected(simulate(alone), pixels()), run(artifact)) > 60, name


@pytest.mark.parametrize("kind", ["static", "token_groups", "token_scaled", "per_token"])
def test_all_gemms_together_stay_with_the_simulator(tiny: VisionTransformer, tmp_path: Path, kind: str) -> None:
    whole = rtn_plan(tiny, pixels(8, seed=1), inputs=kind)
    hidden = run(export(tiny, tmp_path / "model.onnx", "w8a8", whole))
    assert sqnr_db(expected(simulate(whole), pixels()), hidden) > 35
    assert 15 < sqnr_db(expected(tiny, pixels()), hidden) < 45  # and it is quantized


def test_integer_attention_equals_the_simulator(tiny: VisionTransformer, tmp_path: Path) -> None:
    whole = rtn_plan(tiny, pixels(8, seed=1), level="all")
    name, matmul = next(iter(whole.matmuls.items()))
    alone = replace(whole, gemms={}, matmuls={name: matmul})
    artifact = export(tiny, tmp_path / "model.onnx", "w8a8", alone)
    assert sqnr_db(expected(simulate(alone), pixels()), run(artifact)) > 60
    assert OnnxBackend().audit(artifact)["attention_products_int8"] == 2


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("group_size", [None, 32, 64])
def test_int4_weights_in_blocks(
    tiny: VisionTransformer, tmp_path: Path, group_size: int | None, zero_points: bool
) -> None:
    """ONNX Runtime quantizes the activations by itself, so the comparison is with float ones."""
    whole = rtn_plan(
        tiny,
        pixels(8, seed=1),
        bits=4,
        group_size=group_size,
        keep_float=("patch_embed.proj",),
        zero_points=zero_points,
    )
    model = restore(whole.config, whole.float_tensors)
    for name, gemm in whole.gemms.items():
        model.get_submodule(name).weight.data = torch.from_numpy(gemm.dequantized())
    artifact = export(tiny, tmp_path / "model.onnx", "w4a8", whole)
    assert OnnxBackend().audit(artifact)["gemms_int4"] == 8
    assert sqnr_db(expected(model, pixels()), run(artifact)) > 30
    name, gemm = next(iter(whole.gemms.items()))
    zero = np.ones(gemm.weight_scale.shape, np.int8) if gemm.weight_zero_point is None else gemm.weight_zero_point - 1
    other = replace(whole, gemms=whole.gemms | {name: replace(gemm, weight_zero_point=zero)})
    with pytest.raises(ExportError, match=f"{name} weights"):
        verify_plan(artifact.path, other, "w4a8")


def test_weights_of_one_gemm_are_stored_once(tiny: VisionTransformer, tmp_path: Path) -> None:
    whole = rtn_plan(tiny, pixels(8, seed=1), inputs="token_groups")
    graph = onnx.load(export(tiny, tmp_path / "model.onnx", "w8a8", whole).path).graph
    stored = [tensor for tensor in graph.initializer if list(tensor.dims) == [128, 512]]
    assert len(stored) == 2  # fc1 of two blocks


@pytest.mark.parametrize(
    ("overflow", "saturates", "bits", "storage"),
    [
        ("auto", True, 8, "uint8"),
        ("auto", False, 8, "int8"),
        ("auto", True, 7, "int8"),
        ("none", True, 8, "int8"),
        ("u8u8", False, 8, "uint8"),
        ("reduce-range", True, 7, "int8"),
    ],
)
def test_storage_follows_the_cpu_or_the_request(
    tiny: VisionTransformer,
    overflow: Overflow,
    saturates: bool,
    bits: int,
    storage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "cpu_saturates", lambda: saturates)
    assert storage_for(source(tiny, rtn_plan(tiny, pixels(2), bits=bits), overflow)) == storage


def test_the_runner_keeps_products_from_saturating(
    tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = export(tiny, tmp_path / "model.onnx", "w8a8", plan, "none")
    for saturates, value in ((True, "1"), (False, None)):
        monkeypatch.setattr(onnx_runner, "cpu_saturates", lambda saturates=saturates: saturates)
        options = onnx_runner.session_options(artifact, 1)
        try:
            found = options.get_session_config_entry("session.x64quantprecision")
        except RuntimeError:  # not set
            found = None
        assert found == value


def _changed(gemm: GemmPlan, part: str) -> GemmPlan:
    quantizer = gemm.input
    assert isinstance(quantizer, StaticInput)
    weight = gemm.weight.copy()
    weight[0, 0] += 1
    return {
        "weights": replace(gemm, weight=weight),
        "weight scale": replace(gemm, weight_scale=gemm.weight_scale * np.float32(1.0001)),
        "bias": replace(gemm, bias=gemm.bias + 1, bias_dynamic=gemm.bias_dynamic + 1),
        "input zero point": replace(gemm, input=replace(quantizer, zero_point=quantizer.zero_point ^ 1)),
        "input scale": replace(gemm, input=replace(quantizer, scale=quantizer.scale * 1.001)),
    }[part]


@pytest.mark.parametrize("part", ["weights", "weight scale", "bias", "input zero point", "input scale"])
def test_a_file_that_is_not_the_plan_is_refused(
    tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path, part: str
) -> None:
    from edgekit.backends.onnx.verify import verify_plan

    name = "blocks.1.attn.proj"
    variants: tuple[Variant, ...] = ("standard", "dynamic")
    for variant in variants:
        artifact = OnnxBackend().export(source(tiny, plan), "w8a8", variant, tmp_path / "model.onnx")
        assert verify_plan(artifact.path, plan, variant) == len(plan.gemms)
        if variant == "dynamic" and part.startswith("input"):  # which are not in the file
            continue
        other = replace(plan, gemms=plan.gemms | {name: _changed(plan.gemms[name], part)})
        with pytest.raises(ExportError, match=rf"{name} {part}"):
            verify_plan(artifact.path, other, variant)
    without = replace(plan, gemms={key: gemm for key, gemm in plan.gemms.items() if key != name})
    artifact = export(tiny, tmp_path / "model.onnx", "w8a8", plan)
    with pytest.raises(ExportError, match=f"{name} is quantized but not in the plan"):
        verify_plan(artifact.path, without, "standard")


def test_a_float_file_that_differs_from_torch_is_refused(tiny: VisionTransformer, tmp_path: Path) -> None:
    from edgekit.backends.onnx.verify import verify_float

    artifact = OnnxBackend().export(source(tiny, None), "fp32", "standard", tmp_path / "model.onnx")
    other = tiny.bake(*OBLONG)
    other.norm.bias.data += 2e-4
    with pytest.raises(ExportError, match="differs from torch"):
        verify_float(artifact.path, other, "fp32", "standard")


def test_large_weights_go_into_a_file_beside_it(
    tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = OnnxBackend().export(source(tiny, None), "fp32", "standard", tmp_path / "whole.onnx")
    monkeypatch.setattr(onnx_backend, "_ONE_FILE", 0)
    split = OnnxBackend().export(source(tiny, None), "fp32", "standard", tmp_path / "model.onnx")
    beside = tmp_path / "model.onnx_data"
    assert beside.is_file()
    assert files_of(split.path) == [split.path, beside]
    assert split.size_mb == pytest.approx(whole.size_mb, rel=0.02)
    np.testing.assert_array_equal(run(split), run(whole))
    beside.write_bytes(bytes(len(beside.read_bytes())))
    assert sha256_of(split.path) != split.sha256


def test_a_gemm_with_token_groups_counts_once(tiny: VisionTransformer, tmp_path: Path) -> None:
    grouped = rtn_plan(tiny, pixels(8), inputs="token_groups", keep_float=("blocks.1.mlp.fc1",))
    audit = OnnxBackend().audit(export(tiny, tmp_path / "model.onnx", "w8a8", grouped))
    assert (audit["gemms"], audit["gemms_int8"], audit["gemms_float"]) == (9, 8, 1)
