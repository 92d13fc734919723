"""The line that says where an artifact's GEMMs and attention run."""

from __future__ import annotations

import pytest

from edgekit.backends.placement import placement


@pytest.mark.parametrize(
    ("audit", "line"),
    [
        ({"gemms": 49, "gemms_int8": 0, "gemms_float": 49}, "of 49 GEMMs 49 float"),
        (
            {"gemms": 49, "gemms_int8": 48, "gemms_float": 1, "attention_fused": 12, "blocks_fused": 12},
            "of 49 GEMMs 48 INT8, 1 float; 12 attentions in one op each, 12 of them whole blocks",
        ),
        (
            {
                "gemms": 9,
                "gemms_int8": 7,
                "gemms_weight_only": 2,
                "planned_but_not_int8": ["blocks.0.mlp.fc1"],
                "fallbacks": {"Concatenation": 1},
                "attention_fused": 2,
            },
            "of 9 GEMMs 7 INT8, 2 float with integer weights; 2 attentions in one op each; "
            "planned for INT8 but not run so: blocks.0.mlp.fc1; in reference code: 1 Concatenation",
        ),
        (
            {"gemms": 49, "gemms_int8": 49, "operators": 400, "partitions": 2, "outside_xnnpack": {"GELU": 12}},
            "of 49 GEMMs 49 INT8; XNNPACK runs 388 of 400 operators in 2 partitions; outside XNNPACK: 12 GELU",
        ),
        (
            {
                "gemms": 49,
                "gemms_int16": 49,
                "attention_products_int16": 24,
                "operators": 571,
                "partitions": 0,
                "outside_xnnpack": {"ADD": 62, "MUL": 110},
            },
            "of 49 GEMMs 49 INT16 by INT8; 12 attentions in several ops; 24 attention products INT16; "
            "XNNPACK runs none of 571 operators",
        ),
        (
            {"gemms": 49, "gemms_float": 49, "attention_products_float": 24},
            "of 49 GEMMs 49 float; 12 attentions in several ops",
        ),
        (
            {"gemms": 49, "gemms_float": 49, "attention_blocks": 12, "attention_fused": 11},
            "of 49 GEMMs 49 float; 11 attentions in one op each; 1 attentions in several ops",
        ),
        (
            {"gemms": 49, "gemms_float": 49, "attention_decomposed": 12, "attention_fused": 0},
            "of 49 GEMMs 49 float; 12 attentions in several ops",
        ),
        ({"runtime": "x"}, "nothing known"),
        ({"unknown": "OpenVINO is not installed"}, "OpenVINO is not installed"),
    ],
)
def test_every_finding_has_its_words(audit: dict[str, object], line: str) -> None:
    assert placement(audit) == line
