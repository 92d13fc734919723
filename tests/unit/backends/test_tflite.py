"""The TFLite backend beyond the contract: every input quantizer, the read-back, the flatbuffer, the older runtime."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import edgekit
from edgekit.artifact import Artifact
from edgekit.errors import BackendMissing, DataError, ExportError
from edgekit.metrics import sqnr_db
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import GemmPlan, QuantPlan, StaticInput
from edgekit.precision import Precision, Variant
from edgekit.quantization.simulate import simulate
from edgekit.surgery import state_of
from tests.support.metrics import expected
from tests.support.pixels import OBLONG, noise
from tests.support.plans import export_to, rtn_plan

pytest.importorskip("ai_edge_litert")

from edgekit.backends.tflite.backend import TfliteBackend
from edgekit.backends.tflite.builder import FloatBuilder
from edgekit.backends.tflite.composite import CompositeEmitter
from edgekit.backends.tflite.emitter import model_of
from edgekit.backends.tflite.gemms import FloatGemms, as_hybrid, range_channels
from edgekit.backends.tflite.runner import TfliteRunner
from edgekit.backends.tflite.verify import verify_plan

pixels = partial(noise, OBLONG)
QKV = "blocks.0.attn.qkv"


def export(
    model: VisionTransformer,
    path: Path,
    precision: Precision,
    plan: QuantPlan | None = None,
    variant: Variant = "standard",
) -> Artifact:
    return export_to(path, TfliteBackend(), model, precision, plan, variant, calibration=pixels(8).numpy())


def tokens(artifact: Artifact, x: torch.Tensor) -> np.ndarray:
    return TfliteBackend().runner(artifact, threads=1)(x.numpy())["last_hidden_state"]


def oracle(plan: QuantPlan) -> VisionTransformer:
    """The simulator with what TFLite's operator makes of each GEMM."""
    return simulate(replace(plan, gemms={name: as_hybrid(gemm) for name, gemm in plan.gemms.items()}))


@pytest.mark.parametrize("inputs", ["static", "token_groups", "token_scaled", "per_token"])
def test_every_input_quantizer_is_the_plans(inputs: str, tiny: VisionTransformer, tmp_path: Path) -> None:
    """On one GEMM, so that nothing amplifies rounding: XNNPACK's integers are the simulator's."""
    whole = rtn_plan(tiny, pixels(8), inputs=inputs)
    for name in (QKV, "blocks.1.mlp.fc2"):
        plan = replace(whole, gemms={name: whole.gemms[name]})
        x = pixels(2, seed=3)
        actual = tokens(export(tiny, tmp_path, "w8a8", plan), x)
        assert sqnr_db(expected(oracle(plan), x), actual) > 55
        assert sqnr_db(expected(tiny, x), actual) < 50


@pytest.mark.parametrize("inputs", ["static", "token_groups", "token_scaled", "per_token"])
def test_four_bit_weights_in_blocks(inputs: str, tiny: VisionTransformer, tmp_path: Path) -> None:
    plan = rtn_plan(tiny, pixels(8), bits=4, group_size=32, inputs=inputs)
    artifact = export(tiny, tmp_path, "w4a8", plan)
    assert sqnr_db(expected(oracle(plan), pixels()), tokens(artifact, pixels())) > 32
    audit = TfliteBackend().audit(artifact)
    assert (audit["gemms_int8"], audit["partitions"]) == (len(plan.gemms), 1)
    gemm = plan.gemms[QKV]
    other = replace(plan, gemms=plan.gemms | {QKV: _other_integer(gemm)})
    with pytest.raises(ExportError, match=f"{QKV} has other integers"):
        verify_plan(artifact.path, other, "w4a8")
    other = replace(plan, gemms=plan.gemms | {QKV: replace(gemm, weight_scale=gemm.weight_scale * np.float32(1.01))})
    with pytest.raises(ExportError, match=f"{QKV} has other weight scales"):
        verify_plan(artifact.path, other, "w4a8")


def test_values_beyond_a_static_range_are_clipped(tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path) -> None:
    """XNNPACK alone would widen the range of such a token."""
    gemm = plan.gemms[QKV]
    assert isinstance(gemm.input, StaticInput)
    narrow = replace(gemm, input=replace(gemm.input, scale=gemm.input.scale / 3))
    plan = replace(plan, gemms={QKV: narrow})
    x = pixels()
    actual = tokens(export(tiny, tmp_path, "w8a8", plan), x)
    assert sqnr_db(expected(simulate(plan), x), actual) > 55
    assert sqnr_db(expected(tiny, x), actual) < 35


def test_swiglu_and_rewritten_models(
    tiny_swiglu_model: VisionTransformer, tiny: VisionTransformer, tmp_path: Path
) -> None:
    swiglu = tiny_swiglu_model.bake(*OBLONG)
    gated = rtn_plan(swiglu, pixels(8))
    oracle = expected(simulate(gated), pixels())
    assert sqnr_db(oracle, tokens(export(swiglu, tmp_path, "w8a8", gated), pixels())) > 30
    rewritten = deepcopy(tiny)
    generator = torch.Generator().manual_seed(1)
    width, hidden = tiny.config.width, tiny.config.ffn_hidden
    rewritten.unrotate = torch.nn.Parameter(torch.randn(width, width, generator=generator) / width**0.5)
    rewritten.blocks[0].mlp.fc2_gain = torch.nn.Parameter(1 + torch.rand(hidden, generator=generator))
    actual = tokens(export(rewritten, tmp_path, "fp32"), pixels())
    assert np.abs(actual - expected(rewritten, pixels())).max() < 1e-4


def test_a_gemm_that_the_plan_keeps_float_stays_float(tiny: VisionTransformer, tmp_path: Path) -> None:
    plan = rtn_plan(tiny, pixels(8), keep_float=("blocks.0.mlp.fc2", "patch_embed.proj"))
    artifact = export(tiny, tmp_path, "w8a8", plan)
    audit = TfliteBackend().audit(artifact)
    assert (audit["gemms_int8"], audit["gemms_float"]) == (len(plan.gemms), 2)
    assert any("blocks.0.mlp.fc2 stays float" in note for note in artifact.notes)


def test_xnnpack_takes_every_operator(tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path) -> None:
    for precision, variant in TfliteBackend().variants():
        if precision == "w8a16":
            continue  # int16: it takes none
        audit = TfliteBackend().audit(export(tiny, tmp_path, precision, plan, variant))
        assert (audit["partitions"], audit["outside_xnnpack"]) == (1, {}), (precision, variant)
        static = len(plan.gemms) if precision in ("w8a8", "w4a8") and variant == "standard" else 0
        assert audit["static_inputs"] == static
        assert audit["gemms_int8_weights"] == (
            0 if precision.startswith("fp") else len(plan.gemms) - (variant != "standard")
        )
        assert audit["attention_fused"] == (tiny.config.depth if variant == "composite" else 0)


def _other_integer(gemm: GemmPlan) -> GemmPlan:
    weight = gemm.weight.copy()
    weight[0, 0] += 1 if weight[0, 0] < 0 else -1
    return replace(gemm, weight=weight)


def _other_range(gemm: GemmPlan) -> GemmPlan:
    assert isinstance(gemm.input, StaticInput)
    return replace(gemm, input=replace(gemm.input, zero_point=gemm.input.zero_point + 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_integer, "other integers"),
        (lambda gemm: replace(gemm, weight_scale=gemm.weight_scale * np.float32(1.001)), "other weight scales"),
        (lambda gemm: replace(gemm, bias=gemm.bias + np.float32(1e-3)), "another bias"),
        (_other_range, "another input quantizer"),
    ],
)
def test_read_back_finds_any_other_number(
    change: Callable[[GemmPlan], GemmPlan], words: str, tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path
) -> None:
    path = export(tiny, tmp_path, "w8a8", plan).path
    assert verify_plan(path, plan, "w8a8") == len(plan.gemms)
    for name in (QKV, "patch_embed.proj"):
        other = replace(plan, gemms=plan.gemms | {name: change(plan.gemms[name])})
        with pytest.raises(ExportError, match=f"{name} has {words}"):
            verify_plan(path, other, "w8a8")
    fewer = replace(plan, gemms={name: gemm for name, gemm in plan.gemms.items() if name != QKV})
    with pytest.raises(ExportError, match=f"{QKV} is quantized"):
        verify_plan(path, fewer, "w8a8")


def test_what_tflite_cannot_express_is_refused(tiny: VisionTransformer, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="weight scales per output channel"):
        export(tiny, tmp_path, "w8a8", rtn_plan(tiny, pixels(8), group_size=32))
    with pytest.raises(ExportError, match="weight scales per output channel"):
        export(tiny, tmp_path, "w4a8", rtn_plan(tiny, pixels(8), bits=4, group_size=16))
    with pytest.raises(ExportError, match="4-bit weights with zero points"):
        export(tiny, tmp_path, "w4a8", rtn_plan(tiny, pixels(8), bits=4, group_size=32, zero_points=True))
    large = deepcopy(tiny)
    with torch.no_grad():
        large.blocks[0].mlp.fc1.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match="float16 cannot"):
        export(large, tmp_path, "fp16")
    assert list(tmp_path.iterdir()) == []


def test_buffers_are_aligned_and_weights_padded_with_zeros(
    tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path
) -> None:
    from ai_edge_litert import schema_py_generated as schema

    content = export(tiny, tmp_path, "w8a8", plan).path.read_bytes()
    model = schema.Model.GetRootAsModel(content, 0)
    assert model.BuffersLength() > 50
    for i in range(1, model.BuffersLength()):
        data = model.Buffers(i).DataAsNumpy()
        start = data.__array_interface__["data"][0] - np.frombuffer(content, np.uint8).__array_interface__["data"][0]
        assert start % 16 == 0
    graph = model.Subgraphs(0)
    found = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    weight = next(tensor for tensor in found if tensor.Name() == f"{QKV}.weight_q".encode())
    stored = model.Buffers(weight.Buffer()).DataAsNumpy().view(np.int8).reshape(weight.ShapeAsNumpy())
    appended = range_channels(plan.gemms[QKV])
    np.testing.assert_array_equal(stored[:, :-appended], plan.gemms[QKV].weight)
    assert not stored[:, -appended:].any()


def test_a_file_of_others_is_a_data_error(tiny: VisionTransformer, tmp_path: Path) -> None:
    artifact = export(tiny, tmp_path, "fp32")
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(artifact.path.read_bytes().replace(b"edgekit.manifest", b"another.manifest"))
    with pytest.raises(DataError, match="no TFLite file of edgekit"):
        TfliteBackend().read(foreign)


def test_tflite_runtime_is_told_what_it_cannot_run(tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path) -> None:
    for variant, why in (("per_token", "ignores the weight scales"), ("composite", "knows no composites")):
        with pytest.raises(BackendMissing, match=f"does not run in tflite-runtime .*{why}"):
            TfliteRunner(export(tiny, tmp_path, "w8a8", plan, variant), 1, "tflite_runtime")


@pytest.mark.parametrize("scale", [1.0, 0.125, 0.3, 0.0883883461356163])
def test_attention_as_one_composite(scale: float, tiny: VisionTransformer, tmp_path: Path) -> None:
    """XNNPACK runs it by its name, the built-in kernels by the plain operators behind it, for any batch."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    scaled = deepcopy(tiny)
    for block in scaled.blocks:
        block.attn.scale = scale
    builder, tensors = FloatBuilder(), state_of(scaled)  # unfolded: the attention scale is the composite's
    e = CompositeEmitter(scaled.config, tensors, FloatGemms(builder, scaled.config, tensors), builder)
    (tmp_path / "model.tflite").write_bytes(model_of(e, "composite", {}))
    for resolver in (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
        opened = Interpreter(
            model_path=str(tmp_path / "model.tflite"), num_threads=1, experimental_op_resolver_type=resolver
        )
        for batch in (1, 3, 2):
            x = pixels(batch, seed=batch)
            opened.resize_tensor_input(opened.get_input_details()[0]["index"], (batch, *OBLONG, 3))
            opened.allocate_tensors()
            opened.set_tensor(opened.get_input_details()[0]["index"], x.permute(0, 2, 3, 1).contiguous().numpy())
            opened.invoke()
            actual = opened.get_tensor(opened.get_output_details()[0]["index"])
            assert np.abs(actual - expected(scaled, x)).max() < 1e-4
        names = [node["op_name"] for node in opened._get_ops_details()]
        assert names.count("STABLEHLO_COMPOSITE") == 2
        assert names.count("BATCH_MATMUL") == 0


def test_nothing_is_printed(tiny: VisionTransformer, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tokens(export(tiny, tmp_path, "fp32"), pixels())
    assert capfd.readouterr() == ("", "")


@pytest.mark.full
def test_vit_b_and_registers(wide_demo_model: VisionTransformer, tmp_path: Path) -> None:
    """A ViT-B/14 that is the demo twice over, with 4 registers put in."""
    wide = VisionTransformer(replace(wide_demo_model.config, registers=4)).eval()
    wide.load_state_dict(wide_demo_model.state_dict(), strict=False)
    wide = wide.bake(*OBLONG)
    plan = rtn_plan(wide, pixels(4))
    assert np.abs(tokens(export(wide, tmp_path, "fp32"), pixels()) - expected(wide, pixels())).max() < 1e-3
    artifact = export(wide, tmp_path, "w8a8", plan)
    assert 85 < artifact.size_mb < 95
    assert sqnr_db(expected(simulate(plan), pixels()), tokens(artifact, pixels())) > 20
    pictures = pixels().clamp(-1.8, 2.2)
    assert sqnr_db(expected(wide, pictures), tokens(export(wide, tmp_path, "w8a16", plan), pictures)) > 20
    whole = export(wide, tmp_path, "fp32", variant="composite")
    assert np.abs(tokens(whole, pixels()) - expected(wide, pixels())).max() < 1e-3


LEGACY = """
import sys
from pathlib import Path
import numpy as np
from edgekit.artifact import Artifact
from edgekit.backends.tflite.backend import TfliteBackend
from edgekit.errors import BackendMissing
folder = Path(sys.argv[1])
for described in folder.glob("*.json"):
    artifact = Artifact.model_validate_json(described.read_text())
    try:
        outputs = TfliteBackend().runner(artifact, threads=1)(np.load(folder / "x.npy"))
        np.save(described.with_suffix(".npy"), outputs["last_hidden_state"])
    except BackendMissing as error:
        described.with_suffix(".txt").write_text(str(error))
"""


@pytest.mark.full
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="tflite-runtime 2.14 has no wheel for this Python")
@pytest.mark.parametrize("inputs", ["static", "token_groups", "token_scaled"])
def test_every_file_in_tflite_runtime(inputs: str, tiny: VisionTransformer, tmp_path: Path) -> None:
    """In an environment of its own, since it needs numpy 1; files it would miscompute are refused."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["tflite-runtime==2.14.0", "numpy<2", "pydantic"]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    np.save(tmp_path / "x.npy", pixels(2).numpy())
    plan = rtn_plan(tiny, pixels(8), inputs=inputs)
    made = {kind: export(tiny, tmp_path, kind[0], plan, kind[1]) for kind in TfliteBackend().variants()}
    for artifact in made.values():
        artifact.path.with_suffix(".json").write_text(artifact.model_dump_json())
    root = Path(edgekit.__file__).parents[1]
    subprocess.run([python, "-c", LEGACY, tmp_path], check=True, env={**os.environ, "PYTHONPATH": str(root)})
    for (precision, variant), artifact in made.items():
        if precision == "w4a8" or variant != "standard":
            assert "does not run in tflite-runtime" in artifact.path.with_suffix(".txt").read_text()
            continue
        older = np.load(artifact.path.with_suffix(".npy"))
        if precision == "w8a8":
            assert sqnr_db(expected(oracle(plan), pixels(2)), older) > 35
        elif precision == "w8a16":  # kernels round differently: a few integers are their neighbours
            assert sqnr_db(tokens(artifact, pixels(2)), older) > 35
        else:
            np.testing.assert_allclose(older, tokens(artifact, pixels(2)), atol=1e-4)
