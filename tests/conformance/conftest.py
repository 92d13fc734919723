"""One backend after another: every test of this folder runs once for each row of `edgekit.artifact.FORMATS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.artifact import FORMATS, Artifact, Format, Preprocess
from edgekit.backends import Backend, get_backend
from edgekit.backends.source import ExportSource
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import QuantPlan
from edgekit.precision import Precision, Variant
from tests.support.plans import rtn_plan

SIZE = (70, 56)  # (height, width): 5 x 4 patches, so that exchanged sides are noticed


@dataclass
class Exported:
    """What one backend made of one model; each file is written once and read by many tests."""

    backend: Backend
    folder: Path
    model: VisionTransformer
    plan: QuantPlan
    artifacts: dict[tuple[Precision, Variant], Artifact] = field(default_factory=dict)

    def source(self, *, model: VisionTransformer | None = None, planned: bool = True) -> ExportSource:
        """The plan is there for float precisions too: they must not look at it."""
        model = model or self.model
        return ExportSource(
            model,
            Preprocess.for_size(*SIZE),
            self.plan if planned else None,
            "tiny",
            "MIT",
            "0" * 64,
            "digest",
            calibration=random_pixels(8, seed=1).numpy(),
        )

    def export(self, precision: Precision, variant: Variant, path: Path | None = None) -> Artifact:
        """Write a file, or give the one that is there when no path is asked for."""
        if path is not None:
            return self.backend.export(self.source(), precision, variant, path)
        if (precision, variant) not in self.artifacts:
            path = self.folder / self.backend.format / self.backend.filename(precision, variant)
            self.artifacts[precision, variant] = self.backend.export(self.source(), precision, variant, path)
        return self.artifacts[precision, variant]

    def kinds(self) -> list[tuple[Precision, Variant]]:
        """The variants that can be made and run here."""
        fused = self.backend.fused_missing() is None
        return [kind for kind in self.backend.variants() if kind[1] == "standard" or fused]

    def run(self, artifact: Artifact, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs on one thread; skips where this machine can export but not run."""
        if reason := self.backend.runner_missing():
            pytest.skip(reason)
        return self.backend.runner(artifact, threads=1)(pixel_values)


def random_pixels(batch: int, seed: int = 0) -> torch.Tensor:
    """(batch, 3, H, W) normal noise."""
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session", params=FORMATS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that can export on this machine; the others are tested by test_table.py alone."""
    format_: Format = request.param
    try:
        found = get_backend(format_)
    except ImportError as error:
        pytest.skip(f"{error}: test_table.py fails for it")
    if reason := found.missing():
        pytest.skip(reason)
    return found


@pytest.fixture(scope="session")
def make(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Callable[[VisionTransformer], Exported]:
    """Exports of any model by the backend at hand."""

    def exported(model: VisionTransformer) -> Exported:
        baked = model.bake(*SIZE)
        return Exported(backend, tmp_path_factory.mktemp("out"), baked, rtn_plan(baked, random_pixels(8, seed=1)))

    return exported


@pytest.fixture(scope="session")
def tiny(make: Callable[[VisionTransformer], Exported], tiny_reg_model: VisionTransformer) -> Exported:
    """A two-block model with registers."""
    return make(tiny_reg_model)
