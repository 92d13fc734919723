"""Tests of one format or of the native library can be chosen by marker."""

from __future__ import annotations

import pytest

from tests.support.markers import markers_of


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("tests/unit/backends/test_tflite.py::test_every_input_quantizer_is_the_plans[static]", {"tflite"}),
        ("tests/unit/backends/test_mil.py::test_the_interpreter_computes", {"coreml"}),
        ("tests/conformance/test_drift.py::test_drift[openvino-w8a8-fused]", {"openvino", "native"}),
        ("tests/unit/native/test_ops_parity.py::test_blocks_equal_the_reference", {"native"}),
        ("tests/e2e/test_heads.py::test_a_build_with_heads", {"slow"}),
        ("tests/unit/quantization/test_quantize_rounding.py::test_gptq_is_no_worse", set()),
    ],
)
def test_markers_are_told_by_folder_and_name(name: str, wanted: set[str]) -> None:
    assert markers_of(name) == wanted


def test_a_test_carries_the_markers_of_its_name(request: pytest.FixtureRequest) -> None:
    marked = {mark.name for mark in request.node.iter_markers()}
    assert markers_of(request.node.nodeid) == marked & {"slow", "native", "onnx", "openvino", "coreml", "tflite"}
