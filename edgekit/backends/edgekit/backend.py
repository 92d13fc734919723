"""`.edgekit` files for libedgekit: the whole model in one file, run by edgekit's kernels alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from edgekit.artifact import Artifact, Format
from edgekit.backends.base import Backend, Described, Runner
from edgekit.backends.edgekit.container import description_of
from edgekit.backends.source import ExportSource
from edgekit.errors import BackendMissing, ExportError
from edgekit.precision import FACTS, Precision, Variant


@dataclass(frozen=True)
class EdgekitBackend(Backend):
    """Writes one `.edgekit` per precision; numpy and the native library run it."""

    format: ClassVar[Format] = "edgekit"
    title: ClassVar[str] = "libedgekit"
    suffix: ClassVar[str] = ".edgekit"
    packages: ClassVar[tuple[str, ...]] = ("torch",)  # of the golden picture's features
    runtime_packages: ClassVar[tuple[str, ...]] = ()
    kinds: ClassVar[tuple[tuple[Precision, Variant], ...]] = (
        ("fp32", "standard"),
        ("w8a8", "standard"),
        ("w8a16", "standard"),
    )
    own_kernels: ClassVar[bool] = True

    @override
    def runner_missing(self) -> str | None:
        from edgekit.native import ort_library

        try:
            ort_library()
        except BackendMissing as error:
            return str(error)
        return None

    @override
    def prepared(self, source: ExportSource, precision: Precision, variant: Variant) -> ExportSource:
        """Refuse by name what the kernels cannot run: weights with several scales per channel, and no ranges at all."""
        from edgekit.plan.quant import FloatInput

        for name, gemm in source.plan.gemms.items() if source.plan else ():
            if (groups := gemm.weight_scale.shape[1]) > 1:
                raise ExportError(
                    f"{name} has {groups} weight scales per output channel",
                    why="the kernels take one",
                    fix="weight_bits = 8 in the recipe",
                )
            if FACTS[precision].activations == "int8" and isinstance(gemm.input, FloatInput):
                raise ExportError(
                    f"the plan's inputs of {name} are float",
                    why="its weights were rounded for float activations",
                    fix="--precision w8a16",
                )
        return replace(source, head_plan=source.head_plan and source.head_plan.weights_alone())

    @override
    def write(
        self, source: ExportSource, precision: Precision, variant: Variant, path: Path, described: Described
    ) -> None:
        from edgekit.backends.edgekit.container import save

        save(source, precision, described, path)

    @override
    def verify(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> None:
        """Compare every number with the plan; then run the file where the library is, a float one against torch."""
        from edgekit.backends.edgekit.verify import verify_float, verify_golden, verify_plan

        if source.plan is not None:
            verify_plan(path, source.plan)
        if self.runner_missing() is None:
            verify_golden(path)
            if source.plan is None:
                verify_float(path, source.model, source.heads)

    @override
    def notes(self, source: ExportSource, precision: Precision, variant: Variant) -> list[str]:
        if source.plan is None:
            return []
        notes = source.mixed_precision_notes()
        if precision == "w8a16":
            notes.append("16 bits per activation, one range per token, exact integer sums")
        return notes

    @override
    def manifest_of(self, path: Path) -> str | None:
        import json

        manifest = description_of(path).get("manifest")
        return None if manifest is None else json.dumps(manifest)

    @override
    def load(self, artifact: Artifact, threads: int | None) -> Runner:
        from edgekit.backends.edgekit.runner import EdgekitRunner

        return EdgekitRunner(artifact, threads)

    @override
    def inspect(self, artifact: Artifact) -> dict[str, object]:
        from edgekit.backends.edgekit.audit import audit_file

        return audit_file(artifact)
