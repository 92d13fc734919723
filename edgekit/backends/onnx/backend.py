"""ONNX for ONNX Runtime: float, INT8 and int4 files in standard ops, and those with edgekit's fused ops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from edgekit.artifact import Artifact, Format
from edgekit.backends.base import Backend, Described, Runner
from edgekit.backends.metadata import MANIFEST_KEY, manifest_text
from edgekit.backends.source import ExportSource, folded_tensors
from edgekit.errors import BackendMissing, ExportError
from edgekit.precision import Precision, Variant

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgekit.backends.onnx.weights import Storage

_ONE_FILE = 1_900_000_000  # bytes; protobuf ends at 2 GiB, larger weights go into a file beside it


@dataclass(frozen=True)
class OnnxBackend(Backend):
    """Writes one `.onnx` per precision (with `.onnx_data` beside it above 1.9 GB) and runs it in ONNX Runtime."""

    format: ClassVar[Format] = "onnx"
    title: ClassVar[str] = "ONNX"
    suffix: ClassVar[str] = ".onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnx_ir", "onnxruntime")
    runtime_packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    kinds: ClassVar[tuple[tuple[Precision, Variant], ...]] = (
        ("fp32", "standard"),
        ("fp16", "standard"),
        ("w8a8", "standard"),
        ("w8a8", "dynamic"),
        ("w4a8", "standard"),
        ("fp32", "fused"),
        ("w8a8", "fused"),
        ("w8a16", "fused"),
    )
    any_size: ClassVar[bool] = True

    @override
    def fused_missing(self) -> str | None:
        from edgekit.native import ort_library

        try:
            ort_library()
        except BackendMissing as error:
            return str(error)
        return None

    @override
    def write(
        self, source: ExportSource, precision: Precision, variant: Variant, path: Path, described: Described
    ) -> None:
        metadata = {
            MANIFEST_KEY: manifest_text(described),
            "model": source.model_name,
            "licence": source.licence,
            "source": f"sha256:{source.parent_sha256}",
        }
        _save(_model(source, precision, variant, metadata), path)

    @override
    def verify(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> None:
        """Check the graph; run a float file against the torch model, compare an integer one with the plan."""
        import onnx

        from edgekit.backends.onnx.fused import verify_blocks
        from edgekit.backends.onnx.verify import verify_float, verify_plan
        from edgekit.native.schemas import known_to_onnx

        try:
            with known_to_onnx():
                onnx.checker.check_model(str(path), full_check=True, check_custom_domain=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = next(iter(str(error).strip().splitlines()), "")
            raise ExportError(f"the {precision} graph breaks the ONNX rules", why=reason) from error
        if source.plan is None:
            verify_float(path, source.model, precision, variant, source.heads, source.probes)
        elif variant == "fused":
            verify_blocks(path, source.plan)
        else:
            verify_plan(path, source.plan, variant, source.most_tokens)

    @override
    def notes(self, source: ExportSource, precision: Precision, variant: Variant) -> list[str]:
        if source.plan is None:
            return []
        notes = source.mixed_precision_notes()
        if variant == "dynamic":
            notes.append("activations: uint8, one range per tensor taken at run time")
        if precision == "w4a8":
            notes.append(
                "int4 weights in blocks; activations are float in the file, "
                "int8 per block in ONNX Runtime's MatMulNBits"
            )
        if precision == "w8a16":
            notes.append("inside the fused blocks 16 bits per activation, one range per token, exact integer sums")
        standard = variant == "standard" or source.head_plan is not None  # heads are in standard ops always
        if standard and storage_for(source) == "uint8":
            notes.append("weights stored as uint8 with zero point 128: exact on CPUs whose u8*s8 products saturate")
        elif standard and source.may_saturate_int16:
            notes.append(
                "on x86 CPUs without VNNI set session.x64quantprecision=1 (edgekit's runner does): "
                "u8*s8 saturates there"
            )
        return notes

    @override
    def manifest_of(self, path: Path) -> str | None:
        from edgekit.backends.onnx.metadata import metadata_of

        return metadata_of(path).get(MANIFEST_KEY)

    @override
    def load(self, artifact: Artifact, threads: int | None) -> Runner:
        from edgekit.backends.onnx.runner import OnnxRunner

        return OnnxRunner(artifact, threads)

    @override
    def inspect(self, artifact: Artifact) -> dict[str, object]:
        if problem := self.missing():  # the audit reads the graph with onnx itself
            raise BackendMissing(problem, fix=self.install)
        from edgekit.backends.onnx.audit import audit_file

        return audit_file(artifact)


def storage_for(source: ExportSource) -> Storage:
    """uint8 weights where u8*s8 products would saturate, as the source's `overflow` says; "auto" asks this CPU."""
    assert source.plan is not None
    if source.overflow == "auto":
        from edgekit.cpu import cpu_saturates

        return "uint8" if source.may_saturate_int16 and cpu_saturates() else "int8"
    return "uint8" if source.overflow == "u8u8" else "int8"


def _model(source: ExportSource, precision: Precision, variant: Variant, metadata: dict[str, str]) -> ir.Model:
    import onnx_ir as ir

    from edgekit.backends.onnx.builder import GraphBuilder
    from edgekit.backends.onnx.emitter import OPSET, OnnxEmitter, model_of
    from edgekit.backends.onnx.fused import FusedGemms, FusedOnnxEmitter
    from edgekit.backends.onnx.gemms import BlockedGemms, DynamicGemms, FloatGemms, StaticGemms

    storage: Storage = "int8"
    plan, sides = source.plan, source.preprocess.sides
    graph = GraphBuilder(ir.DataType.FLOAT16 if precision == "fp16" else ir.DataType.FLOAT)
    if plan is None:
        config, tensors = source.model.config, folded_tensors(source)
        gemms = FloatGemms(graph, config, tensors)
    else:
        storage, config, tensors = storage_for(source), plan.config, plan.float_tensors
        strategy = {"fused": FusedGemms, "dynamic": DynamicGemms}.get(variant, StaticGemms)
        gemms = (BlockedGemms if precision == "w4a8" else strategy)(graph, plan, storage, sides)
    emitter = FusedOnnxEmitter if variant == "fused" else OnnxEmitter
    e = emitter(config, tensors, gemms, graph, source.head_plan, storage, sides)
    if isinstance(e, FusedOnnxEmitter):
        e.fuse(plan, precision)
    return model_of(e, opset=21 if precision == "w4a8" else OPSET, metadata=metadata, heads=source.heads)


def _save(model: ir.Model, path: Path) -> None:
    """Serialize deterministically; weights beyond protobuf's limit go into `<name>_data` beside it."""
    import onnx_ir as ir

    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(tensor.nbytes for tensor in weights) > _ONE_FILE:
        ir.save(model, path, external_data=f"{path.name}_data")
    else:
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
