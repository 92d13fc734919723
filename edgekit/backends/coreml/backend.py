"""Core ML: FP32, FP16, integer weights and int8 GEMM inputs as .mlpackage, written and proven on any system."""

from __future__ import annotations

import json
import platform
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from typing_extensions import override

from edgekit.artifact import INPUT_NAME, Artifact, Format, TensorSpec
from edgekit.backends.base import Backend, Described, Runner
from edgekit.backends.metadata import MANIFEST_KEY
from edgekit.backends.source import ExportSource, folded_tensors, outputs_of, rgb_source
from edgekit.errors import ExportError
from edgekit.precision import FACTS, Precision, Variant
from edgekit.surgery import restore

if TYPE_CHECKING:
    from edgekit.backends.coreml.emitter import CoreMlEmitter
    from edgekit.recipe import Recipe


@dataclass(frozen=True)
class CoreMlBackend(Backend):
    """Writes `.mlpackage` folders with a batch of one and fixed image size, as the Neural Engine wants them.

    `target`: the oldest system that shall run it; iOS18 (macOS 15) has attention as one operation.
    `batch`: the most images of one call. Above 1 the shape is flexible, 1 to that many.
    """

    format: ClassVar[Format] = "coreml"
    title: ClassVar[str] = "Core ML"
    suffix: ClassVar[str] = ".mlpackage"
    packages: ClassVar[tuple[str, ...]] = ("coremltools",)
    runtime_packages: ClassVar[tuple[str, ...]] = ("coremltools",)  # which reads packages for the interpreter, too
    kinds: ClassVar[tuple[tuple[Precision, Variant], ...]] = (
        ("fp32", "standard"),
        ("fp16", "standard"),
        ("w8", "standard"),
        ("w8a8", "standard"),
        ("w4", "standard"),
        ("w4a8", "standard"),
    )
    image_input: ClassVar[bool] = True
    target: Literal["iOS17", "iOS18"] = "iOS18"
    batch: int = 1

    @override
    def missing(self) -> str | None:
        return super().missing() or self._other_version()

    @override
    def runner_missing(self) -> str | None:
        return super().runner_missing() or self._other_version()

    @override
    def untimed(self) -> str | None:
        if platform.system() == "Darwin":
            return None
        return "Core ML runs on macOS and iOS only; here its program is interpreted, which proves drift, not speed"

    @override
    def set_by(self, recipe: Recipe, *, image_input: bool = False) -> CoreMlBackend:
        """A file that takes images takes one at a time."""
        return CoreMlBackend(recipe.coreml.target, 1 if image_input else recipe.coreml.batch)

    @override
    def settings_of(self, recipe: Recipe) -> dict[str, object]:
        changed = recipe.coreml != type(recipe.coreml)()
        return {"coreml": recipe.coreml.model_dump()} if changed else {}

    @override
    def with_image_input(self, sibling: Artifact, source: ExportSource, path: Path) -> Artifact:
        """The package exported again, its normalisation in the graph."""
        from edgekit.backends.coreml.image import take_images

        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / path.name
            return take_images(self.export(rgb_source(source), sibling.precision, sibling.variant, plain), path)

    @override
    def write(
        self, source: ExportSource, precision: Precision, variant: Variant, path: Path, described: Described
    ) -> None:
        from edgekit.backends.coreml.tools import coremltools

        if self.batch > 1 and source.heads:
            raise ExportError(
                f"a package for {self.batch} images has no heads",
                why="they are written for one",
                fix="batch = 1 under [coreml] in the recipe",
            )
        ct = coremltools()  # first, and quietly
        from edgekit.backends.coreml.emitter import program_of
        from edgekit.backends.coreml.package import save

        batch = 1 if self.batch == 1 else ct.RangeDim(1, self.batch, default=1)
        program = program_of(self._emitter(source, precision), source.heads, batch)
        shape = (batch, 3, *source.preprocess.input_size)
        flexible = None if self.batch == 1 else [ct.TensorType(name=INPUT_NAME, shape=shape, dtype=np.float32)]
        metadata = {MANIFEST_KEY: json.dumps(described, sort_keys=True), "model": source.model_name}
        title = f"{source.model_name} {precision} by edgekit"
        save(program, path, self.target, title, source.licence, metadata, flexible)

    @override
    def verify(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> None:
        """Interpret a float package and compare it with torch, an integer one with the plan number by number."""
        from edgekit.backends.coreml.gemms import row_gains
        from edgekit.backends.coreml.verify import verify_float, verify_plan

        if source.plan is None:
            verify_float(path, source.model, precision)
        else:
            plan = source.plan
            gains = row_gains(plan.config, plan.float_tensors, self.target, source.preprocess.normalize)
            verify_plan(path, plan, gains, precision)

    @override
    def notes(self, source: ExportSource, precision: Precision, variant: Variant) -> list[str]:
        from edgekit.backends.coreml.runner import INTERPRETED

        notes = [f"for {self.target} and later", f"off macOS: {INTERPRETED}"]
        if self.batch > 1:
            notes.append(f"1 to {self.batch} images per call; the Neural Engine prefers fixed shapes")
        if source.plan is not None:
            notes += source.mixed_precision_notes()
            notes.append("scales and biases are the plan's rounded to float16")
            if source.plan.matmuls and not FACTS[precision].weight_only:
                notes.append("attention products stay float16")
        return notes

    @override
    def manifest_of(self, path: Path) -> str | None:
        from edgekit.backends.coreml.package import read_metadata

        self.require(self.packages)
        return read_metadata(path).get(MANIFEST_KEY)

    @override
    def load(self, artifact: Artifact, threads: int | None) -> Runner:
        """In Core ML on macOS, else in `edgekit.backends.coreml.interpreter`.

        `threads` is of no effect: Core ML has no such setting, and numpy takes it from OMP_NUM_THREADS.
        """
        from edgekit.backends.coreml.runner import CoreMlRunner

        return CoreMlRunner(artifact)

    @override
    def inspect(self, artifact: Artifact) -> dict[str, object]:
        """Audit of the saved program; see `edgekit.backends.coreml.audit.audit_package`."""
        from edgekit.backends.coreml.tools import coremltools

        coremltools()  # first, and quietly
        from edgekit.backends.coreml.audit import audit_package

        return audit_package(artifact)

    @override
    def inputs_of(self, source: ExportSource) -> tuple[TensorSpec, ...]:
        (spec,) = super().inputs_of(source)
        return (spec.model_copy(update={"shape": (self._images, *spec.shape[1:])}),)

    @override
    def outputs_of(self, source: ExportSource) -> tuple[TensorSpec, ...]:
        return tuple(spec.model_copy(update={"shape": (self._images, *spec.shape[1:])}) for spec in outputs_of(source))

    @property
    def _images(self) -> int | str:
        """The batch as a shape has it."""
        return 1 if self.batch == 1 else "batch"

    def _other_version(self) -> str | None:
        from edgekit.backends.coreml.tools import PINNED

        if (found := version("coremltools")) == PINNED:
            return None
        return (
            f"coremltools {found} is not {PINNED}, on whose internals edgekit relies: pip install coremltools=={PINNED}"
        )

    def _emitter(self, source: ExportSource, precision: Precision) -> CoreMlEmitter:
        from edgekit.backends.coreml.builder import ProgramOptions
        from edgekit.backends.coreml.emitter import CoreMlEmitter
        from edgekit.backends.coreml.gemms import FloatGemms, StaticGemms, WeightGemms, row_gains
        from edgekit.backends.coreml.norms import large_norms

        plan = source.plan
        config = source.model.config if plan is None else plan.config
        tensors = folded_tensors(source) if plan is None else plan.float_tensors
        dtype = np.float32 if precision == "fp32" else np.float16
        options = ProgramOptions(self.target, dtype, 1 if self.batch == 1 else -1)
        gains = row_gains(config, tensors, self.target, source.preprocess.normalize)
        if plan is None:
            gemms = FloatGemms(config, tensors, gains, options)
        else:
            gemms = (WeightGemms if FACTS[precision].weight_only else StaticGemms)(plan, gains, options)
        rewritten = source.model if plan is None else restore(plan.config, plan.float_tensors)
        large = frozenset() if precision == "fp32" else large_norms(rewritten)
        return CoreMlEmitter(config, tensors, gemms, options, large, source.head_plan)
