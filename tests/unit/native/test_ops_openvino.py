"""The ops in OpenVINO against their definition in numpy, with each optional input or without, from `.onnx` and IR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.native import build
from edgekit.native.reference import ATTENTION, AttentionMode, fused_qkv_attention, qvit_block, vit_block
from tests.support.ops_models import (
    attention_model,
    block_model,
    block_weights,
    float_block_model,
    float_weights,
    rope_tables,
)

ov = pytest.importorskip("openvino")
if build.compiler() is None:
    pytest.skip("no compiler: the extension is not built here", allow_module_level=True)

from edgekit import native as ops  # noqa: E402
from edgekit.backends.openvino.fused import fused_core  # noqa: E402

MODE: AttentionMode = "bf16" if ops.isa().startswith("amx") else ATTENTION["speed"]
X = np.random.default_rng(3).standard_normal((2, 9, 64)).astype(np.float32)


def answers(model: bytes, x: np.ndarray, folder: Path) -> list[np.ndarray]:
    """Of the ONNX file, and of the IR that OpenVINO saves of it."""
    core = fused_core()
    read = core.read_model(model)
    ov.save_model(read, folder / "model.xml", compress_to_fp16=False)
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    return [core.compile_model(each, "CPU", hint)(x)["y"] for each in (read, core.read_model(folder / "model.xml"))]


@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rotated", [0, 5, 9])
def test_block_with_any_of_its_optional_inputs(gain: bool, gated: bool, rotated: int, tmp_path: Path) -> None:
    weights = block_weights(64, 128, gain=gain, gated=gated)
    rope = rope_tables(rotated, 32) if rotated else None
    expected = qvit_block(X, weights, heads=2, scale=np.float32(0.3), attention=MODE, rope=rope)
    for y in answers(block_model(weights, rope=rope), X, tmp_path):
        assert np.linalg.norm(y - expected) < 8e-3 * np.linalg.norm(expected - X)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rotated", [0, 5])
def test_float_block_with_any_of_its_optional_inputs(gated: bool, rotated: int, tmp_path: Path) -> None:
    weights = float_weights(64, 128, gated=gated)
    rope = rope_tables(rotated, 32) if rotated else None
    expected = vit_block(X, weights, heads=2, scale=np.float32(0.3), rope=rope)
    for y in answers(float_block_model(weights, rope=rope), X, tmp_path):
        assert np.linalg.norm(y - expected) < 2e-6 * np.linalg.norm(expected)


def test_attention_with_rotary_positions(tmp_path: Path) -> None:
    qkv = np.random.default_rng(3).standard_normal((2, 9, 192)).astype(np.float32)
    rope = rope_tables(5, 32)
    expected = fused_qkv_attention(qkv, heads=2, scale=np.float32(0.2), rope=rope)
    for y in answers(attention_model(64, num_heads=2, rope=rope), qkv, tmp_path):
        assert np.linalg.norm(y - expected) < 2e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize(("tokens", "dim"), [(2, 30), (2, 64), (10, 32)])
def test_rotary_tables_of_another_size_are_refused(tokens: int, dim: int) -> None:
    core = fused_core()
    model = float_block_model(float_weights(64, 128), rope=rope_tables(tokens, dim))
    with pytest.raises(Exception, match=r"rotary positions"):
        core.compile_model(core.read_model(model), "CPU")(X)
