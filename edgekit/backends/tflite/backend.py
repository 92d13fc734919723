"""TFLite: FP32, float16 or int8 weights, and int8 GEMMs, written from the model's tensors or a QuantPlan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

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
from edgekit.backends.base import ExportSource, Runner, folded_tensors, outputs_of
from edgekit.backends.metadata import MANIFEST_KEY
from edgekit.errors import BackendMissing, DataError, ExportError

if TYPE_CHECKING:
    from edgekit.backends.tflite.int16.fixed_point import IoQuantParams
    from edgekit.backends.tflite.runner import Runtime
    from edgekit.plan.quant import QuantPlan

_INSTALL = "pip install 'edgekit[tflite]'"
_FLOAT: frozenset[Precision] = frozenset({"fp32", "fp16"})
_COMPOSITE: tuple[Precision, ...] = ("fp32", "fp16", "w8a8")
_VERIFIED_IMAGES = 2  # calibration images that a w8a16 file is run on when it is verified


@dataclass(frozen=True)
class TfliteBackend:
    """Writes `.tflite` files and runs them in ai-edge-litert, or in tflite-runtime where only that is installed.

    w8a8 has two forms, both on XNNPACK's int8 GEMM that quantizes its input itself and gives float32. "standard" pins
    the range of each input to the plan's (see `gemms.py`), and is right in tflite-runtime too. "fused" has a range per
    token, taken at run time; no operator is fused in it. It is closer to the float model and a little faster, and runs
    in ai-edge-litert alone. "composite" is that with each attention as one operator, for delegates that know it; float
    precisions have it too. w8a16 is for devices without floats: int8 input, outputs and weights, int16 activations; see
    `edgekit.backends.tflite.int16`.

    `runtime` None takes what is installed, ai-edge-litert first.
    """

    format: ClassVar[Format] = "tflite"
    runtime: Runtime | None = None

    def missing(self) -> str | None:
        """Whether ai-edge-litert is installed, whose schema the writer uses."""
        return None if find_spec("ai_edge_litert") else f"ai-edge-litert is not installed: {_INSTALL}"

    def runner_missing(self) -> str | None:
        """Whether a runtime is installed."""
        return None if self._runtime() else f"neither ai-edge-litert nor tflite-runtime is installed: {_INSTALL}"

    def variants(self) -> tuple[tuple[Precision, Variant], ...]:
        """Every precision in plain operators, w8a8 with per-token ranges ("fused"), and attention as a composite."""
        standard: tuple[Precision, ...] = ("fp32", "fp16", "w8", "w8a8", "w8a16", "w4a8")
        return (
            *((precision, "standard") for precision in standard),
            ("w8a8", "fused"),
            *((precision, "composite") for precision in _COMPOSITE),
        )

    def filename(self, precision: Precision, variant: Variant) -> str:
        """`model.tflite`, `model_w8a8.tflite`, `model_fp32_composite.tflite`, ..."""
        if variant == "standard":
            return "model" + ("" if precision == "fp32" else f"_{precision}") + ".tflite"
        return f"model_{precision}_{variant}.tflite"

    def export(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> Artifact:
        """Write `path` and compare it with its source.

        Float files are run against the torch model, integer ones read back and compared with the plan number by number.

        Raises:
            BackendMissing: ai-edge-litert is not installed.
            ExportError: no such variant, no plan, the plan cannot be expressed, or the file is not equal to its source.
        """
        if problem := self.missing():
            raise BackendMissing(problem, fix=_INSTALL)
        if (precision, variant) not in self.variants():
            raise ExportError(
                f"the TFLite backend does not write {precision} {variant}",
                fix="--precision " + ",".join(sorted({p for p, _ in self.variants()})),
            )
        if precision not in _FLOAT and source.plan is None:
            raise ExportError(
                f"{precision} needs a quantization plan", fix="edgekit quantize --model " + source.model_name
            )
        if precision == "w8a16":
            return self._export_int16(source, path)
        from edgekit.backends.tflite.verify import verify_float, verify_plan

        described = _describe(source, precision, variant)
        plan = _plan_of(source, precision, variant)
        with atomic_path(path) as temporary:
            manifest = json.dumps(described, sort_keys=True)
            temporary.write_bytes(_flatbuffer(source, plan, (precision, variant), manifest))
            if plan is None:
                verify_float(temporary, source.model, precision)
            else:
                verify_plan(temporary, plan, precision)
        return _artifact(described, path)

    def _export_int16(self, source: ExportSource, path: Path) -> Artifact:
        from edgekit.backends.tflite.int16.emitter import emit_contract
        from edgekit.backends.tflite.int16.fixed_point import Int16Builder
        from edgekit.backends.tflite.int16.ranges import observe_ranges
        from edgekit.backends.tflite.int16.verify import verify_integer

        plan, pixels = source.plan, source.calibration
        if plan is None or pixels is None or not len(pixels):
            raise ExportError(
                "w8a16 needs calibration images",
                why="every tensor of it has a range",
                fix="edgekit build --precision w8a16 --calib DIR",
            )
        ranges, hidden = observe_ranges(plan, pixels, source.preprocess)
        described = _describe(source, "w8a16", "standard", ranges.io)
        builder = Int16Builder(ranges)
        outputs = emit_contract(plan, builder)
        metadata = _metadata(source, json.dumps(described, sort_keys=True))
        title = f"{source.model_name} w8a16 by edgekit"
        with atomic_path(path) as temporary:
            temporary.write_bytes(builder.graph.serialize(builder.inputs, outputs, title, metadata))
            verify_integer(temporary, plan, pixels[:_VERIFIED_IMAGES], hidden[:_VERIFIED_IMAGES])
        return _artifact(described, path)

    def read(self, path: Path) -> Artifact:
        """The artifact that a `.tflite` file of edgekit says it is, from its own metadata.

        Raises:
            BackendMissing: ai-edge-litert is not installed.
            DataError: missing, damaged, or not written by edgekit.
        """
        if problem := self.missing():
            raise BackendMissing(problem, fix=_INSTALL)
        from ai_edge_litert import schema_py_generated as schema

        try:
            model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
            entries = [model.Metadata(i) for i in range(model.MetadataLength())]
            entry = next(entry for entry in entries if entry.Name() == MANIFEST_KEY.encode())
            return _artifact(json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()), path)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read", why=error.strerror or "", fix="edgekit export --format tflite"
            ) from None
        except Exception as error:  # flatbuffers checks nothing: a damaged file may raise anything
            raise DataError(
                f"{path} is no TFLite file of edgekit",
                why=str(error) or f"it has no {MANIFEST_KEY}",
                fix="edgekit export --format tflite",
            ) from None

    def runner(self, artifact: Artifact, threads: int | None = None) -> Runner:
        """Load an artifact on the CPU.

        Raises:
            BackendMissing: no runtime is installed, or only one that is too old for this file.
            DataError: the file is missing, damaged or holds another model.
        """
        from edgekit.backends.tflite.runner import TfliteRunner

        runtime = self._runtime()
        if runtime is None:
            raise BackendMissing(self.runner_missing() or "", fix=_INSTALL)
        return TfliteRunner(artifact, threads, runtime)

    def audit(self, artifact: Artifact) -> dict[str, object]:
        """What the runtime and XNNPACK make of the file; see `edgekit.backends.tflite.audit`."""
        from edgekit.backends.tflite.audit import audit_file

        runtime = self._runtime()
        if runtime is None:
            raise BackendMissing(self.runner_missing() or "", fix=_INSTALL)
        return audit_file(artifact, runtime)

    def _runtime(self) -> Runtime | None:
        from edgekit.backends.tflite.runner import installed_runtime

        if self.runtime is None:
            return installed_runtime()
        return self.runtime if find_spec(self.runtime) else None


def _artifact(described: dict[str, object], path: Path) -> Artifact:
    return Artifact.model_validate(described | {"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)})


def _plan_of(source: ExportSource, precision: Precision, variant: Variant) -> QuantPlan | None:
    """The plan that the file holds: none, the source's, or that with per-token ranges ("fused", "composite")."""
    if source.plan is None or precision in _FLOAT:
        return None
    if variant == "standard":
        return source.plan
    from edgekit.backends.fused import as_fused

    return as_fused(source.plan)


def _flatbuffer(source: ExportSource, plan: QuantPlan | None, kind: tuple[Precision, Variant], manifest: str) -> bytes:
    from edgekit.backends.tflite.builder import FloatBuilder
    from edgekit.backends.tflite.composite import CompositeEmitter
    from edgekit.backends.tflite.emitter import TfliteEmitter, model_of
    from edgekit.backends.tflite.gemms import Float16Gemms, FloatGemms, IntegerGemms, PortableGemms, WeightGemms

    builder = FloatBuilder()
    if plan is None:
        config, tensors = source.model.config, folded_tensors(source)
        gemms = (FloatGemms if kind[0] == "fp32" else Float16Gemms)(builder, config, tensors)
    else:
        config, tensors = plan.config, plan.float_tensors
        strategy = WeightGemms if kind[0] == "w8" else PortableGemms if kind == ("w8a8", "standard") else IntegerGemms
        gemms = strategy(builder, plan)
    emitter = CompositeEmitter if kind[1] == "composite" else TfliteEmitter
    e = emitter(config, tensors, gemms, builder, source.head_plan)
    return model_of(e, f"{source.model_name} {kind[0]} by edgekit", _metadata(source, manifest), source.heads)


def _metadata(source: ExportSource, manifest: str) -> dict[str, str]:
    """Text stored in the file."""
    return {MANIFEST_KEY: manifest, "model": source.model_name, "licence": source.licence}


def _describe(
    source: ExportSource, precision: Precision, variant: Variant, io: Mapping[str, IoQuantParams] | None = None
) -> dict[str, object]:
    """The fields of the artifact that are known before the file is written; `io` is of int8 inputs and outputs."""
    height, width = source.preprocess.input_size
    dtype = "int8" if io else "float32"
    inputs = (TensorSpec(name=INPUT_NAME, dtype=dtype, shape=("batch", height, width, 3), layout="NHWC"),)
    outputs = outputs_of(replace(source, heads={}) if io else source)
    notes = _notes(source, precision, variant) if io is None else _int16_notes(source, io)
    return {
        "name": f"tflite/{precision}" + ("" if variant == "standard" else f"_{variant}"),
        "format": "tflite",
        "precision": precision,
        "variant": variant,
        "inputs": [spec.model_dump(mode="json") for spec in inputs],
        "outputs": [spec.model_copy(update={"dtype": dtype}).model_dump(mode="json") for spec in outputs],
        "preprocess": source.preprocess.model_dump(mode="json"),
        "recipe_digest": source.recipe_digest,
        "parent_sha256": source.parent_sha256,
        "tools": {"ai-edge-litert": version("ai-edge-litert")},
        "notes": list(notes),
    }


def _notes(source: ExportSource, precision: Precision, variant: Variant) -> tuple[str, ...]:
    """What a reader of the report should know about the file."""
    whole = ["attention is one operator for delegates that know it; not for tflite-runtime"]
    notes = whole if variant == "composite" else []
    if precision == "fp16":
        notes.append("float16 weights, widened when loaded: arithmetic is float32")
    if source.plan is None or precision in _FLOAT:
        return tuple(notes)
    from edgekit.backends.tflite.runner import runs_in_tflite_runtime

    notes += source.exceptions()
    if precision == "w8":
        notes.append("int8 weights, widened when loaded: arithmetic is float32")
    else:
        ranges = "of the plan" if variant == "standard" else "taken from each token at run time"
        older = "right but slow in" if runs_in_tflite_runtime(precision, variant) else "not for"
        notes.append(
            f"{precision[1]}-bit weights in XNNPACK's int8 GEMMs, input ranges {ranges}; {older} tflite-runtime"
        )
    if precision != "w8" and source.plan.matmuls:
        notes.append("attention products stay float32")
    return tuple(notes)


def _int16_notes(source: ExportSource, io: Mapping[str, IoQuantParams]) -> tuple[str, ...]:
    """Notes on w8a16: how its int8 inputs and outputs are read, and which layers do not have the plan's precision."""
    assert source.plan is not None
    formulas = (f"{name} = (q {-params.zero_point:+d}) * {params.scale:.8g}" for name, params in io.items())
    notes = [
        f"int8 in and out: {', '.join(formulas)}; edgekit's runner converts",
        "int16 between: for devices that multiply integers alone, a CPU has slow reference code for it",
    ]
    notes += [f"{name} is int8 too, rounded to nearest" for name in source.plan.kept_float]
    if source.heads:
        notes.append(f"without the heads {', '.join(source.heads)}, which are float")
    return tuple(notes)
