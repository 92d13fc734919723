"""TFLite: FP32, float16 or int8 weights, and int8 GEMMs, written from the model's tensors or a QuantPlan."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from typing_extensions import override

from edgekit.artifact import INPUT_NAME, Artifact, Format, TensorSpec
from edgekit.backends.base import Backend, Described, Runner
from edgekit.backends.metadata import MANIFEST_KEY
from edgekit.backends.source import ExportSource, folded_tensors
from edgekit.errors import DataError, ExportError
from edgekit.precision import Precision, Variant

if TYPE_CHECKING:
    from edgekit.backends.tflite.int16.fixed_point import Ranges
    from edgekit.backends.tflite.runner import Runtime
    from edgekit.plan.quant import QuantPlan

_VERIFIED_IMAGES = 2  # calibration images that a w8a16 file is run on when it is verified


@dataclass(frozen=True)
class Int16Source(ExportSource):
    """The source of a w8a16 file: with a range of every tensor, and the float tokens (n, N, D) that verify it."""

    ranges: Ranges | None = None
    hidden: np.ndarray | None = None


@dataclass(frozen=True)
class TfliteBackend(Backend):
    """Writes `.tflite` files and runs them in ai-edge-litert, or in tflite-runtime where only that is installed.

    w8a8 has two forms, both on XNNPACK's int8 GEMM that quantizes its input itself and gives float32. "standard" pins
    the range of each input to the plan's (see `gemms.py`), and is right in tflite-runtime too. "per_token" has a range
    per token, taken at run time. It is closer to the float model and a little faster, and runs
    in ai-edge-litert alone. "composite" is that with each attention as one operator, for delegates that know it; float
    precisions have it too. w8a16 is for devices without floats: int8 input, outputs and weights, int16 activations; see
    `edgekit.backends.tflite.int16`.

    `runtime` None takes what is installed, ai-edge-litert first.
    """

    format: ClassVar[Format] = "tflite"
    title: ClassVar[str] = "TFLite"
    suffix: ClassVar[str] = ".tflite"
    packages: ClassVar[tuple[str, ...]] = ("ai_edge_litert",)  # whose schema the writer uses
    runtime_packages: ClassVar[tuple[str, ...]] = ("ai_edge_litert",)
    kinds: ClassVar[tuple[tuple[Precision, Variant], ...]] = (
        ("fp32", "standard"),
        ("fp16", "standard"),
        ("w8", "standard"),
        ("w8a8", "standard"),
        ("w8a16", "standard"),
        ("w4a8", "standard"),
        ("w8a8", "per_token"),
        ("fp32", "composite"),
        ("fp16", "composite"),
        ("w8a8", "composite"),
    )
    untimed_precisions: ClassVar[dict[Precision, str]] = {
        "w8a16": "made for devices that multiply int16 themselves; a CPU has slow reference code for it"
    }
    integer_only: ClassVar[frozenset[Precision]] = frozenset({"w8a16"})
    weight_zero_points: ClassVar[bool] = False
    runtime: Runtime | None = None

    @override
    def runner_missing(self) -> str | None:
        return None if self._runtime() else f"neither ai-edge-litert nor tflite-runtime is installed: {self.install}"

    @override
    def prepared(self, source: ExportSource, precision: Precision, variant: Variant) -> ExportSource:
        """For w8a16 with the ranges that the calibration images reach; it has no heads, which are float."""
        if precision != "w8a16":
            return source
        from edgekit.backends.tflite.int16.ranges import observe_ranges

        pixels = source.calibration
        if source.plan is None or pixels is None or not len(pixels):
            raise ExportError(
                "w8a16 needs calibration images",
                why="every tensor of it has a range",
                fix="edgekit build --precision w8a16 --calib DIR --out OUT",
            )
        ranges, hidden = observe_ranges(source.plan, pixels, source.preprocess)
        given = {field.name: getattr(source, field.name) for field in fields(source)}
        return Int16Source(**given, ranges=ranges, hidden=hidden)

    @override
    def write(
        self, source: ExportSource, precision: Precision, variant: Variant, path: Path, described: Described
    ) -> None:
        metadata = {
            MANIFEST_KEY: json.dumps(described, sort_keys=True),
            "model": source.model_name,
            "licence": source.licence,
        }
        title = f"{source.model_name} {precision} by edgekit"
        if isinstance(source, Int16Source):
            path.write_bytes(_int16_flatbuffer(source, title, metadata))
        else:
            path.write_bytes(_flatbuffer(source, precision, variant, title, metadata))

    @override
    def verify(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> None:
        """Run a float file against the torch model, compare an integer one with the plan number by number."""
        from edgekit.backends.tflite.verify import verify_float, verify_plan

        if source.plan is None:
            verify_float(path, source.model, precision)
        elif isinstance(source, Int16Source):
            from edgekit.backends.tflite.int16.verify import verify_integer

            assert source.calibration is not None
            assert source.hidden is not None
            images = slice(_VERIFIED_IMAGES)
            verify_integer(path, source.plan, source.calibration[images], source.hidden[images])
        else:
            verify_plan(path, _plan_of(source.plan, variant), precision)

    @override
    def notes(self, source: ExportSource, precision: Precision, variant: Variant) -> list[str]:
        if isinstance(source, Int16Source):
            return _int16_notes(source)
        notes = []
        if variant == "composite":
            notes.append("attention is one operator for delegates that know it; not for tflite-runtime")
        if precision == "fp16":
            notes.append("float16 weights, widened when loaded: arithmetic is float32")
        if source.plan is None:
            return notes
        from edgekit.backends.tflite.runner import runs_in_tflite_runtime

        notes += source.mixed_precision_notes()
        if precision == "w8":
            return [*notes, "int8 weights, widened when loaded: arithmetic is float32"]
        ranges = "of the plan" if variant == "standard" else "taken from each token at run time"
        older = "right but slow in" if runs_in_tflite_runtime(precision, variant) else "not for"
        notes.append(
            f"{precision[1]}-bit weights in XNNPACK's int8 GEMMs, input ranges {ranges}; {older} tflite-runtime"
        )
        return [*notes, "attention products stay float32"] if source.plan.matmuls else notes

    @override
    def manifest_of(self, path: Path) -> str | None:
        self.require(self.packages)
        from ai_edge_litert import schema_py_generated as schema

        try:
            model = schema.Model.GetRootAsModel(path.read_bytes(), 0)
            entries = [model.Metadata(i) for i in range(model.MetadataLength())]
            entry = next(entry for entry in entries if entry.Name() == MANIFEST_KEY.encode())
            return str(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes(), "utf-8")
        except OSError as error:
            raise DataError(
                f"{path} cannot be read", why=error.strerror or "", fix="edgekit export --format tflite --out OUT"
            ) from None
        except Exception as error:  # flatbuffers checks nothing: a damaged file may raise anything
            raise DataError(
                f"{path} is no TFLite file of edgekit",
                why=str(error) or f"it has no {MANIFEST_KEY}",
                fix="edgekit export --format tflite --out OUT",
            ) from None

    @override
    def load(self, artifact: Artifact, threads: int | None) -> Runner:
        from edgekit.backends.tflite.runner import TfliteRunner

        runtime = self._runtime()
        assert runtime is not None  # `runner_missing` has said so
        return TfliteRunner(artifact, threads, runtime)

    @override
    def inspect(self, artifact: Artifact) -> dict[str, object]:
        """Audit of the file in the runtime and XNNPACK; see `edgekit.backends.tflite.audit`."""
        from edgekit.backends.tflite.audit import audit_file

        runtime = self._runtime()
        assert runtime is not None
        return audit_file(artifact, runtime)

    @override
    def inputs_of(self, source: ExportSource) -> tuple[TensorSpec, ...]:
        """Images with the channels last; int8 of a w8a16 file."""
        height, width = source.preprocess.input_size
        dtype = "int8" if isinstance(source, Int16Source) else "float32"
        return (TensorSpec(name=INPUT_NAME, dtype=dtype, shape=("batch", height, width, 3), layout="NHWC"),)

    @override
    def outputs_of(self, source: ExportSource) -> tuple[TensorSpec, ...]:
        specs = super().outputs_of(source)
        if not isinstance(source, Int16Source):
            return specs
        return tuple(spec.model_copy(update={"dtype": "int8"}) for spec in specs if spec.name not in source.heads)

    def _runtime(self) -> Runtime | None:
        from edgekit.backends.tflite.runner import installed_runtime

        if self.runtime is None:
            return installed_runtime()
        return self.runtime if find_spec(self.runtime) else None


def _plan_of(plan: QuantPlan, variant: Variant) -> QuantPlan:
    """The plan that a kind of file holds: as it is, or with a range per token."""
    if variant == "standard":
        return plan
    from edgekit.backends.fused import as_fused

    return as_fused(plan)


def _flatbuffer(
    source: ExportSource, precision: Precision, variant: Variant, title: str, metadata: dict[str, str]
) -> bytes:
    from edgekit.backends.tflite.builder import FloatBuilder
    from edgekit.backends.tflite.composite import CompositeEmitter
    from edgekit.backends.tflite.emitter import TfliteEmitter, model_of
    from edgekit.backends.tflite.gemms import Float16Gemms, FloatGemms, IntegerGemms, PortableGemms, WeightGemms

    builder = FloatBuilder()
    if source.plan is None:
        config, tensors = source.model.config, folded_tensors(source)
        gemms = (FloatGemms if precision == "fp32" else Float16Gemms)(builder, config, tensors)
    else:
        plan = _plan_of(source.plan, variant)
        config, tensors = plan.config, plan.float_tensors
        portable = (precision, variant) == ("w8a8", "standard")
        gemms = (WeightGemms if precision == "w8" else PortableGemms if portable else IntegerGemms)(builder, plan)
    emitter = CompositeEmitter if variant == "composite" else TfliteEmitter
    e = emitter(config, tensors, gemms, builder, source.head_plan)
    return model_of(e, title, metadata, source.heads)


def _int16_flatbuffer(source: Int16Source, title: str, metadata: dict[str, str]) -> bytes:
    from edgekit.backends.tflite.int16.emitter import emit_contract
    from edgekit.backends.tflite.int16.fixed_point import Int16Builder

    assert source.plan is not None
    assert source.ranges is not None
    builder = Int16Builder(source.ranges)
    outputs = emit_contract(source.plan, builder)
    return builder.graph.serialize(builder.inputs, outputs, title, metadata)


def _int16_notes(source: Int16Source) -> list[str]:
    """Notes on w8a16: how its int8 inputs and outputs are read, and which layers do not have the plan's precision."""
    assert source.plan is not None
    assert source.ranges is not None
    io = source.ranges.io
    formulas = (f"{name} = (q {-params.zero_point:+d}) * {params.scale:.8g}" for name, params in io.items())
    notes = [
        f"int8 in and out: {', '.join(formulas)}; edgekit's runner converts",
        "int16 between: for devices that multiply integers alone, a CPU has slow reference code for it",
    ]
    notes += [f"{name} is int8 too, rounded to nearest" for name in source.plan.kept_float]
    if source.heads:
        notes.append(f"without the heads {', '.join(source.heads)}, which are float")
    return notes
