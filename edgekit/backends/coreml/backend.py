"""Core ML: FP32, FP16, integer weights and int8 GEMM inputs as .mlpackage, written and proven on any system."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from edgekit.artifact import (
    INPUT_NAME,
    Artifact,
    Format,
    Precision,
    TensorSpec,
    Variant,
    atomic_path,
    sha256_of,
    size_mb_of,
)
from edgekit.backends.base import WEIGHT_ONLY, ExportSource, Runner, folded_tensors, outputs_of
from edgekit.backends.metadata import MANIFEST_KEY
from edgekit.errors import BackendMissing, DataError, ExportError

if TYPE_CHECKING:
    from edgekit.backends.coreml.emitter import CoreMlEmitter
    from edgekit.plan.quant import QuantPlan

_INSTALL = "pip install 'edgekit[coreml]'"
_FLOAT: frozenset[Precision] = frozenset({"fp32", "fp16"})


@dataclass(frozen=True)
class CoreMlBackend:
    """Writes `.mlpackage` folders with a batch of one and fixed image size, as the Neural Engine wants them.

    `target`: the oldest system that shall run it; iOS18 (macOS 15) has attention as one operation.
    `batch`: the most images of one call. Above 1 the shape is flexible, 1 to that many.
    """

    format: ClassVar[Format] = "coreml"
    target: Literal["iOS17", "iOS18"] = "iOS18"
    batch: int = 1

    def missing(self) -> str | None:
        """Which of the packages that export needs is not installed, or is of another version than was tested."""
        return _not_installed("coremltools")

    def runner_missing(self) -> str | None:
        """Whether coremltools is installed: it runs packages on macOS, and reads them for the interpreter elsewhere."""
        return _not_installed("coremltools")

    def variants(self) -> tuple[tuple[Precision, Variant], ...]:
        """Every precision; attention is one operation in all of them."""
        return tuple((precision, "standard") for precision in ("fp32", "fp16", "w8", "w8a8", "w4", "w4a8"))  # type: ignore[misc]

    def filename(self, precision: Precision, variant: Variant) -> str:
        """`model.mlpackage`, `model_w8a8.mlpackage`, ..."""
        fused = "_fused" * (variant == "fused")
        return "model" + ("" if precision == "fp32" else f"_{precision}") + fused + ".mlpackage"

    def export(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> Artifact:
        """Write `path`, read it back and compare it with its source.

        Float packages are interpreted and compared with torch, integer ones with the plan number by number.

        Raises:
            BackendMissing: a package is not installed.
            ExportError: no such variant, no plan, the plan cannot be expressed, or the package is not its source.
        """
        if problem := self.missing():
            raise BackendMissing(problem, fix=_INSTALL)
        if (precision, variant) not in self.variants():
            raise ExportError(
                f"the Core ML backend does not write {precision} {variant}",
                fix="--precision " + ",".join(sorted({p for p, _ in self.variants()})),
            )
        if precision not in _FLOAT and source.plan is None:
            raise ExportError(
                f"{precision} needs a quantization plan", fix="edgekit quantize --model " + source.model_name
            )
        if self.batch > 1 and source.heads:
            raise ExportError(
                f"a package for {self.batch} images has no heads",
                why="they are written for one",
                fix="batch = 1 under [coreml] in the recipe",
            )
        from edgekit.backends.coreml.tools import coremltools

        ct = coremltools()  # first, and quietly
        from edgekit.backends.coreml.emitter import program_of
        from edgekit.backends.coreml.package import save
        from edgekit.backends.coreml.verify import verify_float, verify_plan

        plan = None if precision in _FLOAT else source.plan
        e, gains = self._emitter(source, plan, precision)
        batch = 1 if self.batch == 1 else ct.RangeDim(1, self.batch, default=1)
        program = program_of(e, source.heads, batch)
        shape = (batch, 3, *source.preprocess.input_size)
        flexible = None if self.batch == 1 else [ct.TensorType(name=INPUT_NAME, shape=shape, dtype=np.float32)]
        described = self._describe(source, precision, variant)
        metadata = {MANIFEST_KEY: json.dumps(described, sort_keys=True), "model": source.model_name}
        with atomic_path(path) as temporary:
            title = f"{source.model_name} {precision} by edgekit"
            save(program, temporary, self.target, title, source.licence, metadata, flexible)
            if plan is None:
                verify_float(temporary, source.model, precision)
            else:
                verify_plan(temporary, plan, gains, precision)
        return _artifact(described, path)

    def read(self, path: Path) -> Artifact:
        """The artifact that an `.mlpackage` of edgekit says it is, from its own metadata.

        Raises:
            BackendMissing: coremltools is not installed.
            DataError: missing, damaged, or not written by edgekit.
        """
        if problem := _not_installed("coremltools"):
            raise BackendMissing(problem, fix=_INSTALL)
        from edgekit.backends.coreml.package import read_metadata

        metadata = read_metadata(path)
        try:
            return _artifact(json.loads(metadata[MANIFEST_KEY]), path)
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{path} is no Core ML package of edgekit", why=str(error), fix="edgekit export --format coreml"
            ) from None

    def runner(self, artifact: Artifact, threads: int | None = None) -> Runner:
        """Load an artifact: in Core ML on macOS, else in `edgekit.backends.coreml.interpreter`.

        `threads` is of no effect: Core ML has no such setting, and numpy takes it from OMP_NUM_THREADS.

        Raises:
            BackendMissing: coremltools is not installed.
            DataError: the package is missing or damaged.
        """
        if problem := self.runner_missing():
            raise BackendMissing(problem, fix=_INSTALL)
        from edgekit.backends.coreml.runner import CoreMlRunner

        return CoreMlRunner(artifact)

    def audit(self, artifact: Artifact) -> dict[str, object]:
        """What stands in the saved program; see `edgekit.backends.coreml.audit.audit_package`."""
        if problem := _not_installed("coremltools"):
            raise BackendMissing(problem, fix=_INSTALL)
        from edgekit.backends.coreml.tools import coremltools

        coremltools()  # first, and quietly
        from edgekit.backends.coreml.audit import audit_package

        return audit_package(artifact)

    def _emitter(
        self, source: ExportSource, plan: QuantPlan | None, precision: Precision
    ) -> tuple[CoreMlEmitter, dict[str, np.ndarray]]:
        """What writes the program, and the gains of its rows."""
        from edgekit.backends.coreml.builder import ProgramOptions
        from edgekit.backends.coreml.emitter import CoreMlEmitter
        from edgekit.backends.coreml.gemms import FloatGemms, StaticGemms, WeightGemms, row_gains
        from edgekit.backends.coreml.norms import large_norms

        config = source.model.config if plan is None else plan.config
        tensors = folded_tensors(source) if plan is None else plan.float_tensors
        dtype = np.float32 if precision == "fp32" else np.float16
        options = ProgramOptions(self.target, dtype, 1 if self.batch == 1 else -1)
        gains = row_gains(config, tensors, self.target, source.preprocess.normalize)
        if plan is None:
            gemms = FloatGemms(config, tensors, gains, options)
        else:
            gemms = (WeightGemms if precision in WEIGHT_ONLY else StaticGemms)(plan, gains, options)
        large = frozenset() if precision == "fp32" else large_norms(plan.module() if plan else source.model)
        return CoreMlEmitter(config, tensors, gemms, options, large, source.head_plan), gains

    def _describe(self, source: ExportSource, precision: Precision, variant: Variant) -> dict[str, object]:
        """The fields of the artifact that are known before the package is written."""
        height, width = source.preprocess.input_size
        images = 1 if self.batch == 1 else "batch"
        inputs = (TensorSpec(name=INPUT_NAME, dtype="float32", shape=(images, 3, height, width), layout="NCHW"),)
        return {
            "name": f"coreml/{precision}",
            "format": "coreml",
            "precision": precision,
            "variant": variant,
            "inputs": [spec.model_dump(mode="json") for spec in inputs],
            "outputs": [
                spec.model_copy(update={"shape": (images, *spec.shape[1:])}).model_dump(mode="json")
                for spec in outputs_of(source)
            ],
            "preprocess": source.preprocess.model_dump(mode="json"),
            "recipe_digest": source.recipe_digest,
            "parent_sha256": source.parent_sha256,
            "tools": {"coremltools": version("coremltools")},
            "notes": list(self._notes(source, precision)),
        }

    def _notes(self, source: ExportSource, precision: Precision) -> tuple[str, ...]:
        """What a reader of the report should know about the package."""
        from edgekit.backends.coreml.runner import INTERPRETED

        notes = [f"for {self.target} and later", f"off macOS: {INTERPRETED}"]
        if self.batch > 1:
            notes.append(f"1 to {self.batch} images per call; the Neural Engine prefers fixed shapes")
        if source.plan is not None and precision not in _FLOAT:
            notes += source.exceptions()
            notes.append("scales and biases are the plan's rounded to float16")
            if source.plan.matmuls and precision not in WEIGHT_ONLY:
                notes.append("attention products stay float16")
        return tuple(notes)


def _artifact(described: dict[str, object], path: Path) -> Artifact:
    return Artifact.model_validate(described | {"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)})


def _not_installed(*packages: str) -> str | None:
    from edgekit.backends.coreml.tools import PINNED

    absent = [package for package in packages if find_spec(package) is None]
    if absent:
        return f"{', '.join(absent)} not installed: {_INSTALL}"
    if (found := version("coremltools")) != PINNED:
        return (
            f"coremltools {found} is not {PINNED}, on whose internals edgekit relies: pip install coremltools=={PINNED}"
        )
    return None
