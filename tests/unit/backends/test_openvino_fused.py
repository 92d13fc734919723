"""Fused ops in OpenVINO: the same figures as in ONNX Runtime from IR and `.onnx`, and an extension built once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit import native as ops
from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.fused import as_fused
from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.backends.openvino.backend import OpenVinoBackend
from edgekit.backends.source import ExportSource
from edgekit.errors import BackendMissing, ExportError
from edgekit.models.vit import VisionTransformer
from edgekit.native import build
from edgekit.native.openvino_library import NAME, build_extension
from edgekit.plan.quant import QuantPlan
from edgekit.quantization.simulate import simulate
from tests.support.pixels import OBLONG, noise
from tests.support.plans import export_source, rtn_plan

ov = pytest.importorskip("openvino")
ir = pytest.importorskip("onnx_ir")

from edgekit.backends.openvino.fused import fused_core  # noqa: E402

pixels = partial(noise, OBLONG)
KINDS = ("fp32", "w8a8")


def source(model: VisionTransformer, plan: QuantPlan) -> ExportSource:
    return export_source(model, Preprocess.for_size(*OBLONG), plan)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module", autouse=True)
def extension() -> Path:
    """Built by the first test that needs it, into edgekit's own cache."""
    if not build.compiler():
        pytest.skip("no compiler: the fused ops are not built here")
    return ops.openvino_extension()


@pytest.fixture(scope="module")
def artifacts(
    tiny: VisionTransformer, plan: QuantPlan, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("fused")
    backend = OpenVinoBackend()
    return {
        kind: backend.export(source(tiny, plan), kind, "fused", folder / backend.filename(kind, "fused"))
        for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_onnx_file_gives_the_same_figures_in_both_runtimes(
    kind: str, tiny: VisionTransformer, plan: QuantPlan, artifacts: dict[str, Artifact], tmp_path: Path
) -> None:
    artifact = OnnxBackend().export(source(tiny, plan), kind, "fused", tmp_path / "model.onnx")
    x = pixels(3).numpy()
    in_onnxruntime = OnnxBackend().runner(artifact, 1)(x)["last_hidden_state"]
    core = ov.Core()
    core.add_extension(str(ops.openvino_extension()))
    compiled = core.compile_model(core.read_model(artifact.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    from_onnx = compiled(x)["last_hidden_state"]
    from_ir = OpenVinoBackend().runner(artifacts[kind], 1)(x)["last_hidden_state"]
    # The runtimes hand over floats that differ in the last bit: now and then one makes a query's 8-bit integer differ.
    for other in (from_onnx, from_ir):
        assert cosine(in_onnxruntime, other) > (0.999999 if kind == "fp32" else 0.99998)
    with torch.no_grad():
        expected = (tiny if kind == "fp32" else simulate(as_fused(plan)))(pixels(3))[0].numpy()
    assert cosine(from_ir, expected) > 0.9999


def test_audit_counts_what_is_inside_the_ops(artifacts: dict[str, Artifact]) -> None:
    fp32, w8a8 = (OpenVinoBackend().audit(artifacts[kind]) for kind in KINDS)
    assert (fp32["gemms"], fp32["gemms_int8"], fp32["attention_fused"], fp32["blocks_fused"]) == (9, 0, 2, 2)
    assert (w8a8["gemms"], w8a8["gemms_int8"], w8a8["attention_fused"], w8a8["blocks_fused"]) == (9, 8, 2, 2)
    assert not {"Reference"} & set(w8a8["fallbacks"])  # type: ignore[call-overload]


def test_a_block_kept_partly_float_stays_in_parts(tiny: VisionTransformer, tmp_path: Path) -> None:
    plan = rtn_plan(tiny, pixels(8), keep_float=("blocks.1.mlp.fc2",))
    artifact = OpenVinoBackend().export(source(tiny, plan), "w8a8", "fused", tmp_path / "model.xml")
    audit = OpenVinoBackend().audit(artifact)
    assert (audit["blocks_fused"], audit["attention_fused"], audit["gemms_float"]) == (1, 2, 2)
    with torch.no_grad():
        expected = simulate(as_fused(plan))(pixels(3))[0].numpy()
    assert cosine(OpenVinoBackend().runner(artifact, 1)(pixels(3).numpy())["last_hidden_state"], expected) > 0.9999


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", [OnnxBackend(), OpenVinoBackend()], ids=["onnx", "openvino"])
def test_blocks_with_swiglu_are_fused(
    kind: str, backend: OnnxBackend | OpenVinoBackend, tiny_swiglu_model: VisionTransformer, tmp_path: Path
) -> None:
    model = tiny_swiglu_model.bake(*OBLONG)
    plan = rtn_plan(model, pixels(8))
    artifact = backend.export(source(model, plan), kind, "fused", tmp_path / backend.filename(kind, "fused"))
    assert backend.audit(artifact)["blocks_fused"] == model.config.depth
    with torch.no_grad():
        expected = (model if kind == "fp32" else simulate(as_fused(plan)))(pixels())[0].numpy()
    # The simulator's attention is float, the op's has 8-bit scores.
    bound = 0.999999 if kind == "fp32" else 0.9995
    assert cosine(backend.runner(artifact, 1)(pixels().numpy())["last_hidden_state"], expected) > bound


def test_what_cannot_be_fused_is_refused(tiny: VisionTransformer, tmp_path: Path) -> None:
    grouped = rtn_plan(tiny, pixels(2), group_size=32)
    with pytest.raises(ExportError, match="4 weight scales per output channel"):
        OpenVinoBackend().export(source(tiny, grouped), "w8a8", "fused", tmp_path / "model.xml")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_the_plan_is_refused(artifacts: dict[str, Artifact], plan: QuantPlan) -> None:
    from edgekit.backends.openvino.fused import verify_blocks

    assert verify_blocks(artifacts["w8a8"].path, plan) == 2
    name, gemm = "blocks.1.attn.proj", plan.gemms["blocks.1.attn.proj"]
    for changed in (replace(gemm, weight=-gemm.weight), replace(gemm, bias_dynamic=gemm.bias_dynamic + 1)):
        with pytest.raises(ExportError, match=r"blocks\.1\.attn\.proj"):
            verify_blocks(artifacts["w8a8"].path, replace(plan, gemms=plan.gemms | {name: changed}))


@pytest.mark.parametrize(
    ("attributes", "words"),
    [({"num_heads": 0}, "num_heads > 0"), ({"num_heads": 5}, "no q, k, v of 5 heads"), ({"mode": "i4"}, "not i4")],
)
def test_impossible_attributes_are_errors(extension: Path, attributes: dict[str, object], words: str) -> None:
    from openvino import opset13
    from openvino.utils.node_factory import NodeFactory

    from edgekit.backends.openvino.fused import _keep_loaded

    _keep_loaded(extension)
    factory = NodeFactory("opset13")
    factory.add_extension(str(extension))
    packed = opset13.parameter([-1, 7, 3 * 128], np.float32)
    with pytest.raises(RuntimeError, match=words):
        factory.create(
            "FusedQKVAttention", [packed.output(0)], {"num_heads": 2, "scale": 1.0, "mode": "f32"} | attributes
        )


def test_the_extension_is_built_once_and_holds_no_path(extension: Path, tmp_path: Path) -> None:
    kernels = ops.ort_library()
    assert extension.name == NAME
    content = extension.read_bytes()
    assert str(extension.parent).encode() not in content
    assert str(kernels.parent).encode() not in content
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in extension.parent.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert ctypes.CDLL(str(moved / NAME))  # finds its kernels beside it


@pytest.mark.parametrize("missing", ["compiler", "broken compiler"])
def test_no_compiler_is_said(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = ops.ort_library()
    if missing == "compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CXX", raising=False)
    else:
        monkeypatch.setenv("CXX", "false")
    with pytest.raises(BackendMissing, match=r"OpenVINO extension.*apt-get install g"):
        build_extension(kernels, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def _shorten(model: ir.Model, name: str, axis: int) -> None:
    """Cut the last row or column off a constant."""
    value = model.graph.initializers[name]
    array = value.const_value.numpy()
    array = np.ascontiguousarray(array[tuple(slice(0, -1 if i == axis else None) for i in range(array.ndim))])
    value.const_value = ir.tensor(array, name=name)
    value.shape = ir.Shape(array.shape)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: _shorten(model, "blocks.0.mlp.fc2.weight", 1), "input 11 of shape"),
        (lambda model: _shorten(model, "blocks.0.attn.qkv.weight", 0), "input 3 of shape"),
        (lambda model: _shorten(model, "blocks.0.attn.proj.weight_scale", 0), "input 7 of shape"),
        (lambda model: _shorten(model, "blocks.0.norm1.weight", 0), "norm of 127 channels"),
        (lambda model: _attribute(model, ir.AttrInt64("num_heads", -2)), "num_heads > 0"),
        (lambda model: _attribute(model, ir.AttrString("tier", "warp")), "not warp"),
        (lambda model: _attribute(model, ir.AttrInt64("num_heads", 7)), "heads"),
    ],
)
def test_a_file_with_impossible_blocks_is_refused(
    change: Callable[[ir.Model], None], words: str, tiny: VisionTransformer, plan: QuantPlan, tmp_path: Path
) -> None:
    """When it is read, or by the kernels when the block is packed; never by a crash."""
    OnnxBackend().export(source(tiny, plan), "w8a8", "fused", tmp_path / "model.onnx")
    model = ir.load(tmp_path / "model.onnx")
    change(model)
    (tmp_path / "model.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    core = fused_core()
    with pytest.raises(RuntimeError, match=words):
        core.compile_model(core.read_model(tmp_path / "model.onnx"), "CPU")(pixels(1).numpy())


def _attribute(model: ir.Model, attribute: ir.Attr) -> None:
    next(node for node in model.graph if node.op_type == "QViTBlock").attributes[attribute.name] = attribute
