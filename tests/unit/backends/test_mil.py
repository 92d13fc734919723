"""The MIL interpreter, operation by operation against coremltools' own numpy evaluation of the same program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.artifact import INPUT_NAME, Artifact, Preprocess
from edgekit.errors import DataError, ExportError
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import QuantPlan
from edgekit.precision import Precision
from tests.support.pixels import OBLONG, noise
from tests.support.plans import export_source, export_to, rtn_plan

pytest.importorskip("coremltools")

from edgekit.backends.coreml.backend import CoreMlBackend
from edgekit.backends.coreml.builder import Target
from edgekit.backends.coreml.interpreter import ops as mil_ops
from edgekit.backends.coreml.interpreter import program as mil
from edgekit.backends.coreml.interpreter.program import MilProgram

pixels = partial(noise, OBLONG)
NO_NUMPY = {"conv", "identity", "silu"}  # coremltools has no evaluation of them; torch judges them below


def export(
    model: VisionTransformer,
    folder: Path,
    precision: Precision,
    plan: QuantPlan | None = None,
    target: Target = "iOS18",
) -> Artifact:
    return export_to(folder, CoreMlBackend(target=target), model, precision, plan)


def theirs(op: Any, arguments: Mapping[str, Any]) -> list[np.ndarray]:
    """What coremltools computes for the operation on these inputs."""
    for key, var in op.inputs.items():
        several = isinstance(var, (list, tuple))
        for each, value in zip(var if several else [var], arguments[key] if several else [arguments[key]], strict=True):
            if each is not None and each.val is None:
                each._sym_val = SimpleNamespace(val=value)
    result = op.materialized_val_inference() if op.op_type == "dequantize" else op.value_inference()
    return list(result) if isinstance(result, (list, tuple)) else [result]


@pytest.mark.parametrize(
    ("name", "precision", "target"),
    [
        ("tiny_reg_model", "fp32", "iOS18"),
        ("tiny_reg_model", "w8a8", "iOS18"),
        ("tiny_reg_model", "w8a8", "iOS17"),
        ("tiny_swiglu_model", "fp16", "iOS18"),
    ],
)
def test_every_operation_agrees_with_coremltools(
    name: str, precision: Precision, target: Target, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: VisionTransformer = request.getfixturevalue(name).bake(*OBLONG)
    plan = rtn_plan(model, pixels(8)) if precision == "w8a8" else None
    program = MilProgram(export(model, tmp_path, precision, plan, target).path)
    seen: Counter[str] = Counter()

    def compare(op: Any, arguments: mil_ops.Inputs, results: list[np.ndarray]) -> None:
        if op.op_type in NO_NUMPY:
            return
        for ours, their in zip(results, theirs(op, arguments), strict=True):
            error = np.abs(ours.astype(np.float64) - np.asarray(their, np.float64))
            if op.op_type == "quantize":  # numpy divides in float16: some values fall to the next integer
                assert error.max() <= 1
                assert error.mean() < 0.05
            else:
                limit = 2e-6 if precision == "fp32" else 4e-3
                assert error.max() <= limit * max(1.0, float(np.abs(ours.astype(np.float64)).max())), op.op_type
        seen[op.op_type] += 1

    program({INPUT_NAME: pixels(1).numpy()}, compare)
    depth = model.config.depth
    assert seen["scaled_dot_product_attention"] == (depth if target == "iOS18" else 0)
    assert seen["softmax"] == (0 if target == "iOS18" else depth)
    assert seen["layer_norm"] == 2 * depth + 1
    assert seen["linear"] == 4 * depth
    assert seen["quantize"] == seen["dequantize"] == (4 * depth + 1 if precision == "w8a8" else 0)


def test_padding_agrees_with_coremltools(tiny: VisionTransformer, tmp_path: Path) -> None:
    """It brings CLS and registers into packages whose number of images is open."""
    source = export_source(tiny, Preprocess.for_size(*OBLONG), None)
    path = CoreMlBackend(batch=3).export(source, "fp16", "standard", tmp_path / "model.mlpackage").path
    seen: list[tuple[int, ...]] = []

    def compare(op: Any, arguments: mil_ops.Inputs, results: list[np.ndarray]) -> None:
        if op.op_type == "pad":
            assert np.array_equal(results[0], theirs(op, arguments)[0])
            seen.append(results[0].shape)

    MilProgram(path)({INPUT_NAME: pixels(2).numpy()}, compare)
    assert seen == [(2, 25, tiny.config.width)]


def test_what_heads_are_made_of_agrees_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(1, 8, 5, 4, generator=generator), torch.randn(6, 8, 3, 3, generator=generator)
    functional = torch.nn.functional
    for stride, padding in ((1, 0), (1, 1), (2, 1)):
        given = {"pad_type": "custom", "pad": [padding] * 4, "groups": 1, "dilations": [1, 1], "strides": [stride] * 2}
        (actual,) = mil_ops.conv({"x": x.numpy(), "weight": w.numpy(), **given})
        np.testing.assert_allclose(actual, functional.conv2d(x, w, stride=stride, padding=padding).numpy(), atol=1e-4)
    (actual,) = mil_ops.pixel_shuffle({"x": x.numpy(), "upscale_factor": 2})
    assert np.array_equal(actual, functional.pixel_shuffle(x, 2).numpy())
    for size in ((10, 8), (3, 9), (1, 1)):
        for mode, aligned in (("STRICT_ALIGN_CORNERS", True), ("UNALIGN_CORNERS", False)):
            given = {"target_size_height": size[0], "target_size_width": size[1], "sampling_mode": mode}
            (actual,) = mil_ops.resize_bilinear({"x": x.numpy(), **given})
            expected = functional.interpolate(x, size, mode="bilinear", align_corners=aligned)
            np.testing.assert_allclose(actual, expected.numpy(), atol=1e-5)


def test_convolution_gelu_and_silu_agree_with_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(shape, generator=generator) for shape in ((1, 3, 28, 42), (8, 3, 14, 14), (8,)))
    fixed = {"pad_type": "valid", "groups": 1, "dilations": [1, 1], "strides": [14, 14]}
    (actual,) = mil_ops.conv({"x": x.numpy(), "weight": w.numpy(), "bias": b.numpy(), **fixed})
    np.testing.assert_allclose(actual, torch.nn.functional.conv2d(x, w, b, stride=14).numpy(), atol=1e-4)
    values = torch.linspace(-9, 9, 100_001)
    (actual,) = mil_ops.gelu({"x": values.numpy(), "mode": "EXACT"})
    np.testing.assert_allclose(actual, torch.nn.functional.gelu(values.double()).numpy(), atol=1e-6)
    (actual,) = mil_ops.silu({"x": 100 * values.numpy()})
    np.testing.assert_allclose(actual, torch.nn.functional.silu(100 * values.double()).numpy(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("operation", "arguments", "words"),
    [
        (mil_ops.gelu, {"x": np.ones(2), "mode": "TANH_APPROXIMATION"}, "exact gelu"),
        (mil_ops.attention, {"attn_mask": np.ones(2)}, "without mask"),
        (mil_ops.layer_norm, {"x": np.ones((2, 3)), "axes": [0]}, "last axis"),
    ],
)
def test_what_is_not_implemented_is_refused(
    operation: mil_ops.Operation, arguments: mil_ops.Inputs, words: str
) -> None:
    with pytest.raises(ExportError, match=words):
        operation(arguments)


def test_an_unknown_operation_is_named(
    tiny: VisionTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(tiny, tmp_path, "fp32").path
    fewer = {name: operation for name, operation in mil.OPERATIONS.items() if name != "gelu"}
    monkeypatch.setattr(mil, "OPERATIONS", fewer)
    with pytest.raises(ExportError, match="operation gelu"):
        MilProgram(path)


def test_another_shape_is_refused(tiny: VisionTransformer, tmp_path: Path) -> None:
    program = MilProgram(export(tiny, tmp_path, "fp32").path)
    with pytest.raises(DataError, match="has shape"):
        program({INPUT_NAME: np.zeros((2, 3, *OBLONG), np.float32)})
