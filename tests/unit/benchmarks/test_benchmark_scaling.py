"""The fitted exponents of benchmarks/scaling.py: those that constructed costs were made with."""

from __future__ import annotations

import pytest

POINTS = [(257, 224, 1), (485, 308, 1), (1025, 448, 1), (257, 224, 2), (257, 224, 4), (257, 224, 8)]


def test_exponents_are_those_of_the_costs() -> None:
    pytest.importorskip("altair")
    from benchmarks.support.scaling_chart import exponents

    rows = [
        {
            "artifact": "onnx/fp32",
            "image_size": str(size),
            "tokens": str(tokens),
            "batch": str(batch),
            "p50_ms": str(0.3 * tokens**1.25 * batch**0.9),
            "base_rss_mb": "40",
            "peak_rss_mb": str(40 + 2 * tokens**0.5 * batch),
        }
        for tokens, size, batch in POINTS
    ]
    found = {(fit.axis, fit.cost): round(fit.value, 6) for fit in exponents(rows)}
    assert found == {("tokens", "ms"): 1.25, ("tokens", "MB"): 0.5, ("batch", "ms"): 0.9, ("batch", "MB"): 1.0}
