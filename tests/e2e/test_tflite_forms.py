"""Forms of TFLite that are made when asked for: integers throughout, and attention as one operator."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgekit
from edgekit.pipeline import build
from edgekit.recipe import Recipe

pytest.importorskip("ai_edge_litert")


def test_they_are_rows_with_their_drift_and_not_what_is_opened_unasked(recipe: Recipe, pictures: Path, tmp_path: Path):
    asked = recipe.model_copy(
        update={
            "formats": ("tflite",),
            "precisions": ("fp32", "w8a8", "w8a16"),
            "dynamic_ranges": True,
            "fused_attention": True,
        }
    )
    result = build(asked, tmp_path / "out", measure="drift")
    rows = {row.name: row for row in result.manifest.artifacts}
    assert list(rows) == [
        "tflite/fp32",
        "tflite/fp32_composite",
        "tflite/w8a8",
        "tflite/w8a8_per_token",
        "tflite/w8a8_composite",
        "tflite/w8a16",
    ]
    assert {row.status for row in rows.values()} == {"ok"}
    integer, whole = rows["tflite/w8a16"], rows["tflite/fp32_composite"]
    assert integer.drift is not None
    assert integer.drift["sqnr_db"] > 20
    assert {spec.dtype for spec in (*integer.inputs, *integer.outputs)} == {"int8"}
    assert integer.audit is not None
    assert (integer.audit["gemms_int16"], integer.audit["gemms_float"]) == (integer.audit["gemms"], 0)
    assert whole.audit is not None
    assert whole.audit["attention_fused"] == 2
    assert edgekit.load(tmp_path / "out").artifact.name == "tflite/w8a8_per_token"
    alone = edgekit.load(tmp_path / "out" / "tflite" / "model_w8a16.tflite")
    assert alone(sorted(pictures.iterdir())[0])["pooler_output"].shape == (1, integer.outputs[1].shape[1])
    assert build(asked, tmp_path / "out", measure="drift").kept == tuple(rows)  # and kept
