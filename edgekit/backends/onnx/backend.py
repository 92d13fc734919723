"""ONNX for ONNX Runtime: float, INT8 and int4 files in standard ops, and those fused by edgekit.native."""

from __future__ import annotations

import platform
from dataclasses import dataclass
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
from edgekit.backends.metadata import MANIFEST_KEY, artifact_from, manifest_text
from edgekit.errors import BackendMissing, ExportError

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.backends.onnx.weights import Storage

_INSTALL = "pip install 'edgekit[onnx]'"
_FLOAT = ("fp32", "fp16")
_ONE_FILE = 1_900_000_000  # bytes; protobuf ends at 2 GiB, larger weights go into a file beside it


@dataclass(frozen=True)
class OnnxBackend:
    """Writes one `.onnx` per precision (with `.onnx_data` beside it above 1.9 GB) and runs it in ONNX Runtime."""

    format: ClassVar[Format] = "onnx"

    def missing(self) -> str | None:
        """Which of the packages that export needs is not installed."""
        return _not_installed("onnx", "onnx_ir", "onnxruntime")

    def runner_missing(self) -> str | None:
        """Whether ONNX Runtime is installed."""
        return _not_installed("onnxruntime")

    def variants(self) -> tuple[tuple[Precision, Variant], ...]:
        """Every precision in standard ops, and the two that the fused ops serve."""
        standard: tuple[Precision, ...] = ("fp32", "fp16", "w8", "w8a8", "w4a8")
        return (*((precision, "standard") for precision in standard), ("fp32", "fused"), ("w8a8", "fused"))

    def filename(self, precision: Precision, variant: Variant) -> str:
        """`model.onnx`, `model_w8a8.onnx`, `model_fp32_fused.onnx`, ..."""
        fused = "_fused" * (variant == "fused")
        return "model" + (f"_{precision}" if precision != "fp32" or fused else "") + fused + ".onnx"

    def export(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> Artifact:
        """Write `path`, check the graph, and compare it with its source.

        Float files are run against the torch model, integer ones read back and compared with the plan number by number.

        Raises:
            BackendMissing: a package is not installed.
            ExportError: no such variant, no plan, or the file is not equal to its source.
        """
        if problem := self.missing():
            raise BackendMissing(problem, fix=_INSTALL)
        if (precision, variant) not in self.variants():
            raise ExportError(
                f"the ONNX backend does not write {precision} {variant}",
                fix="--precision " + ",".join(sorted({p for p, _ in self.variants()})),
            )
        if precision not in _FLOAT and source.plan is None:
            raise ExportError(
                f"{precision} needs a quantization plan", fix="edgekit quantize --model " + source.model_name
            )
        described = _describe(source, precision, variant)
        metadata = {
            MANIFEST_KEY: manifest_text(described),
            "model": source.model_name,
            "licence": source.licence,
            "source": f"sha256:{source.parent_sha256}",
        }
        with atomic_path(path) as temporary:
            _save(_model(source, precision, variant, metadata), temporary)
            _check(source, precision, variant, temporary)
        return Artifact.model_validate(
            described | {"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)}
        )

    def runner(self, artifact: Artifact, threads: int | None = None) -> Runner:
        """Load an artifact into ONNX Runtime on the CPU.

        Raises:
            BackendMissing: ONNX Runtime, or the op library of a fused file, is not here.
            DataError: the file is missing or damaged.
        """
        if problem := self.runner_missing():
            raise BackendMissing(problem, fix=_INSTALL)
        from edgekit.backends.onnx.runner import OnnxRunner

        return OnnxRunner(artifact, threads)

    def read(self, path: Path) -> Artifact:
        """The artifact that a `.onnx` file says it is; needs no other package.

        Raises:
            DataError: missing, damaged, or not written by edgekit.
        """
        from edgekit.backends.onnx.metadata import metadata_of

        return artifact_from(path, metadata_of(path).get(MANIFEST_KEY))

    def audit(self, artifact: Artifact) -> dict[str, object]:
        """What ONNX Runtime makes of the file on this CPU; see `edgekit.backends.onnx.audit.audit_file`."""
        if problem := self.missing():
            raise BackendMissing(problem, fix=_INSTALL)
        from edgekit.backends.onnx.audit import audit_file

        return audit_file(artifact)


def storage_for(source: ExportSource) -> Storage:
    """uint8 weights where u8*s8 products would saturate, as the source's `overflow` says; "auto" asks this CPU."""
    assert source.plan is not None
    if source.overflow == "auto":
        from edgekit.backends.cpu import cpu_saturates

        return "uint8" if source.eight_bits and cpu_saturates() else "int8"
    return "uint8" if source.overflow == "u8u8" else "int8"


def _model(source: ExportSource, precision: Precision, variant: Variant, metadata: dict[str, str]) -> ir.Model:
    import onnx_ir as ir

    from edgekit.backends.onnx.builder import GraphBuilder
    from edgekit.backends.onnx.emitter import OPSET, OnnxEmitter, model_of
    from edgekit.backends.onnx.fused import FusedGemms, FusedOnnxEmitter
    from edgekit.backends.onnx.gemms import BlockedGemms, DynamicGemms, FloatGemms, StaticGemms

    graph = GraphBuilder(ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.FLOAT)
    storage: Storage = "int8"
    if precision in _FLOAT:
        plan, config, tensors = None, source.model.config, folded_tensors(source)
        gemms = FloatGemms(graph, config, tensors)
    else:
        assert source.plan is not None
        plan, config, tensors, storage = source.plan, source.plan.config, source.plan.float_tensors, storage_for(source)
        strategy = {"w8": DynamicGemms, "w4a8": BlockedGemms}.get(precision, StaticGemms)
        gemms = (FusedGemms if variant == "fused" else strategy)(graph, plan, storage)
    emitter = FusedOnnxEmitter if variant == "fused" else OnnxEmitter
    e = emitter(config, tensors, gemms, graph, source.head_plan if plan else None, storage)
    if isinstance(e, FusedOnnxEmitter):
        e.fuse(plan)
    return model_of(e, opset=21 if precision == "w4a8" else OPSET, metadata=metadata, heads=source.heads)


def _save(model: ir.Model, path: Path) -> None:
    """Serialize deterministically; weights beyond protobuf's limit go into `<name>_data` beside it."""
    import onnx_ir as ir

    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(tensor.nbytes for tensor in weights) > _ONE_FILE:
        ir.save(model, path, external_data=f"{path.name}_data")
    else:
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def _check(source: ExportSource, precision: Precision, variant: Variant, path: Path) -> None:
    """Refuse a file that breaks the ONNX rules or does not compute what it was written from."""
    import onnx

    from edgekit.backends.onnx.fused import verify_blocks
    from edgekit.backends.onnx.verify import verify_float, verify_plan
    from edgekit.native.schemas import known_to_onnx

    try:
        with known_to_onnx():
            onnx.checker.check_model(str(path), full_check=True, check_custom_domain=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the {precision} graph breaks the ONNX rules", why=_first_line(error)) from error
    if precision in _FLOAT:
        verify_float(path, source.model, precision, variant, source.heads)
        return
    assert source.plan is not None
    if variant == "fused":
        verify_blocks(path, source.plan)
    else:
        verify_plan(path, source.plan, precision)


def _describe(source: ExportSource, precision: Precision, variant: Variant) -> dict[str, object]:
    """The fields of the artifact that are known before the file is written."""
    height, width = source.preprocess.input_size
    inputs = (TensorSpec(name=INPUT_NAME, dtype="float32", shape=("batch", 3, height, width), layout="NCHW"),)
    return {
        "name": f"onnx/{precision}" + "_fused" * (variant == "fused"),
        "format": "onnx",
        "precision": precision,
        "variant": variant,
        "inputs": [spec.model_dump(mode="json") for spec in inputs],
        "outputs": [spec.model_dump(mode="json") for spec in outputs_of(source)],
        "preprocess": source.preprocess.model_dump(mode="json"),
        "recipe_digest": source.recipe_digest,
        "parent_sha256": source.parent_sha256,
        "tools": {package: version(package) for package in ("onnx", "onnx-ir", "onnxruntime")},
        "notes": list(_notes(source, precision, variant)),
    }


def _notes(source: ExportSource, precision: Precision, variant: Variant) -> tuple[str, ...]:
    """What a reader of the report should know about the file."""
    if source.plan is None or precision in _FLOAT:
        return ()
    notes = source.exceptions()
    if precision == "w8":
        notes.append("activations: uint8, one range per tensor taken at run time")
    if precision == "w4a8":
        notes.append(
            "int4 weights in blocks; activations are float in the file, int8 per block in ONNX Runtime's MatMulNBits"
        )
    standard = variant == "standard" or source.head_plan is not None  # heads are in standard ops always
    if standard and storage_for(source) == "uint8":
        notes.append("weights stored as uint8 with zero point 128: exact on CPUs whose u8*s8 products saturate")
    elif standard and source.eight_bits:
        notes.append(
            "on x86 CPUs without VNNI set session.x64quantprecision=1 (edgekit's runner does): u8*s8 saturates there"
        )
    return tuple(notes)


def _not_installed(*packages: str) -> str | None:
    absent = [package.replace("_", "-") for package in packages if find_spec(package) is None]
    return f"{', '.join(absent)} not installed for Python {platform.python_version()}: {_INSTALL}" if absent else None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else ""
