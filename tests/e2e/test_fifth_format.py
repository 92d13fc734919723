"""A fifth format: one row of the table, and it is built, judged, reported, listed by `doctor` and loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from typing_extensions import override

import edgekit
from edgekit.artifact import FORMATS, OUTPUT_NAMES, Artifact, Format, FormatRow
from edgekit.backends.base import Backend, Described, Runner
from edgekit.backends.metadata import manifest_text
from edgekit.backends.source import ExportSource
from edgekit.pipeline import build
from edgekit.precision import Precision, Variant
from edgekit.quantization.simulate import simulate
from edgekit.recipe import Recipe
from edgekit.workflows.doctor import examine


@dataclass(frozen=True)
class ModuleBackend(Backend):
    """Stores a torch module and runs it: the float model, or the plan's simulator."""

    format: ClassVar[Format] = "module"
    title: ClassVar[str] = "Module"
    suffix: ClassVar[str] = ".module"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    runtime_packages: ClassVar[tuple[str, ...]] = ("torch",)
    kinds: ClassVar[tuple[tuple[Precision, Variant], ...]] = (("fp32", "standard"), ("w8a8", "standard"))

    @override
    def untimed(self) -> str | None:
        return "a test has no speed"

    @override
    def write(
        self, source: ExportSource, precision: Precision, variant: Variant, path: Path, described: Described
    ) -> None:
        module = source.model if source.plan is None else simulate(source.plan)
        torch.save({"module": module, "manifest": manifest_text(described)}, path)

    @override
    def verify(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> None:
        assert _read(path)["module"] is not None

    @override
    def notes(self, source: ExportSource, precision: Precision, variant: Variant) -> list[str]:
        return []

    @override
    def manifest_of(self, path: Path) -> str | None:
        return str(_read(path)["manifest"])

    @override
    def load(self, artifact: Artifact, threads: int | None) -> Runner:
        return ModuleRunner(artifact)

    @override
    def inspect(self, artifact: Artifact) -> dict[str, object]:
        return {}


class ModuleRunner:
    """Runs the module of an artifact."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact, self._module = artifact, _read(artifact.path)["module"]

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = self._module(torch.from_numpy(pixel_values))
        return dict(zip(OUTPUT_NAMES, (output.numpy() for output in outputs), strict=True))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=False)
    return found


def test_one_row_of_the_table_is_a_format(
    recipe: Recipe, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "module", FormatRow(f"{__name__}:ModuleBackend", ("torch",)))
    asked = Recipe.make(recipe.model_dump() | {"formats": ["onnx", "module"]})
    out = tmp_path / "out"
    result = build(asked, out)

    rows = {row.name: row for row in result.manifest.artifacts}
    assert list(rows) == ["onnx/fp32", "onnx/w8a8", "module/fp32", "module/w8a8"]
    assert rows["module/w8a8"].status == "ok"
    assert rows["module/w8a8"].path == "module/model_w8a8.module"
    assert rows["module/w8a8"].tools.keys() == {"torch"}
    assert 15 < rows["module/w8a8"].drift["sqnr_db"] < 60
    assert "not timed here: a test has no speed" in rows["module/w8a8"].notes
    assert "module/w8a8" in (out / "report.html").read_text(encoding="utf-8")
    assert {health.name: (health.export, health.run) for health in examine().backends}["module"] == (None, None)

    model = edgekit.load(out / "module" / "model_w8a8.module")
    assert model.artifact.name == "module/w8a8"
    assert model(pictures / "00.png")["pooler_output"].shape == (1, 128)
    alone = tmp_path / "model_w8a8.module"
    alone.write_bytes((out / "module" / "model_w8a8.module").read_bytes())
    assert edgekit.load(alone).artifact.format == "module"
    assert build(asked, out).did_nothing
