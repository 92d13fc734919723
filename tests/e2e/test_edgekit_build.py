"""A build of files for libedgekit: made, judged, timed, reported and opened like those of every format."""

from __future__ import annotations

from pathlib import Path

import edgekit
from edgekit.pipeline import build
from edgekit.recipe import Recipe


def test_a_build_of_files_for_libedgekit(recipe: Recipe, pictures: Path, tmp_path: Path) -> None:
    asked = Recipe.make(recipe.model_dump() | {"formats": ["edgekit"]})
    out = tmp_path / "out"
    result = build(asked, out)
    rows = {row.name: row for row in result.manifest.artifacts}
    assert {name: row.path for name, row in rows.items()} == {
        "edgekit/fp32": "edgekit/model.edgekit",
        "edgekit/w8a8": "edgekit/model_w8a8.edgekit",
        "edgekit/w8a16": "edgekit/model_w8a16.edgekit",
    }
    assert {row.status for row in rows.values()} == {"ok"}, [row.reason for row in rows.values()]
    assert rows["edgekit/fp32"].drift["sqnr_db"] > 90
    assert rows["edgekit/w8a16"].drift["sqnr_db"] > rows["edgekit/w8a8"].drift["sqnr_db"] > 15
    assert all(row.latency["p50_ms"] > 0 for row in rows.values())
    assert rows["edgekit/w8a8"].audit["blocks_fused"] == 2
    assert "edgekit/w8a8" in (out / "report.html").read_text(encoding="utf-8")
    model = edgekit.load(out)
    assert model.artifact.format == "edgekit"
    assert model(pictures / "00.png")["pooler_output"].shape == (1, 128)
    assert build(asked, out).did_nothing
