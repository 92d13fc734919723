"""OpenVINO IR: FP32, FP16-compressed, int8 weights or int8 GEMMs, written from the model's tensors or a QuantPlan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from xml.etree import ElementTree

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
from edgekit.backends.metadata import artifact_from, manifest_text
from edgekit.errors import BackendMissing, DataError, ExportError

if TYPE_CHECKING:
    import openvino as ov

    from edgekit.backends.openvino.runner import Hint
    from edgekit.plan.quant import QuantPlan

_FLOAT: frozenset[Precision] = frozenset({"fp32", "fp16"})
_MANIFEST = ["edgekit", "manifest"]  # its place in rt_info
_INSTALL = "pip install 'edgekit[openvino]'"
_SATURATES = (
    "8-bit weights: int8 GEMMs of x86 CPUs without VNNI{this} saturate, edgekit's runner multiplies floats there; "
    'elsewhere set LP_TRANSFORMS_MODE=NO, or overflow = "reduce-range" in the recipe for 7-bit weights'
)


@dataclass(frozen=True)
class OpenVinoBackend:
    """Reads and writes `.xml` + `.bin`.

    `hint`: "latency" runs a batch as one request; "throughput" spreads its images over parallel streams.
    `cache_dir`: where the runtime keeps compiled models between runs.
    """

    format: ClassVar[Format] = "openvino"
    hint: Hint = "latency"
    cache_dir: Path | None = None

    def missing(self) -> str | None:
        """OpenVINO writes its own IR: export needs the runtime only."""
        return self.runner_missing()

    def runner_missing(self) -> str | None:
        """Whether the runtime is installed."""
        return None if find_spec("openvino") else f"OpenVINO is not installed: {_INSTALL}"

    def variants(self) -> tuple[tuple[Precision, Variant], ...]:
        """Four precisions in standard operations, and the two that the fused ops serve."""
        standard: tuple[Precision, ...] = ("fp32", "fp16", "w8", "w8a8")
        return (*((precision, "standard") for precision in standard), ("fp32", "fused"), ("w8a8", "fused"))

    def filename(self, precision: Precision, variant: Variant) -> str:
        """`model.xml`, `model_w8a8.xml`, `model_fp32_fused.xml`, ..."""
        fused = "_fused" * (variant == "fused")
        return "model" + (f"_{precision}" if precision != "fp32" or fused else "") + fused + ".xml"

    def export(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> Artifact:
        """Write `path` and its `.bin`, read them back, and check every integer and range against the plan.

        Raises:
            BackendMissing: OpenVINO is not installed.
            ExportError: this backend does not write that precision, a plan is missing, or it cannot be expressed.
        """
        if problem := self.missing():
            raise BackendMissing(problem, fix=_INSTALL)
        if (precision, variant) not in self.variants():
            raise ExportError(
                f"the OpenVINO backend does not write {precision} {variant}",
                fix="--precision " + ",".join(sorted({p for p, _ in self.variants()})),
            )
        import openvino as ov

        model = _graph(source, precision, variant)
        described = _describe(source, precision, variant)
        stamp(model, described)
        for value, key in _model_api(source):
            model.set_rt_info(value, ["model_info", key])
        with atomic_path(path) as temporary:
            ov.save_model(model, temporary, compress_to_fp16=precision == "fp16")
            if source.plan is not None and precision not in _FLOAT:
                _verify(temporary, source.plan, precision, variant)
        return Artifact.model_validate(
            described | {"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)}
        )

    def read(self, path: Path) -> Artifact:
        """The artifact that an IR says it is, from its `rt_info`; needs no other package.

        Raises:
            DataError: missing, damaged, or not written by edgekit.
        """
        from edgekit.backends.openvino.runner import require_both_files

        require_both_files(path)
        try:
            found = ElementTree.parse(path).find("/".join(("rt_info", *_MANIFEST)))
        except ElementTree.ParseError as error:
            raise DataError(
                f"{path} is not a readable OpenVINO model", why=str(error), fix="edgekit export --format openvino"
            ) from None
        return artifact_from(path, found.get("value") if found is not None else None)

    def runner(self, artifact: Artifact, threads: int | None = None) -> Runner:
        """Load an artifact on the CPU.

        Raises:
            BackendMissing: OpenVINO is not installed.
            DataError: the files are missing, damaged or hold another model.
        """
        if problem := self.runner_missing():
            raise BackendMissing(problem, fix=_INSTALL)
        from edgekit.backends.openvino.runner import OpenVinoRunner

        return OpenVinoRunner(artifact, threads, self.hint, self.cache_dir)

    def audit(self, artifact: Artifact) -> dict[str, object]:
        """What the CPU plugin really runs; see `edgekit.backends.openvino.audit.audit_model`."""
        if problem := self.runner_missing():
            raise BackendMissing(problem, fix=_INSTALL)
        from edgekit.backends.openvino.audit import audit_model
        from edgekit.backends.openvino.runner import core_for, plugin_settings, read_model

        core = core_for(artifact.variant)
        model = read_model(artifact.path, core)
        return audit_model(model, core, plugin_settings(model, "latency", None))


def _graph(source: ExportSource, precision: Precision, variant: Variant) -> ov.Model:
    from edgekit.backends.openvino.emitter import OpenVinoEmitter, model_of
    from edgekit.backends.openvino.fused import FusedGemms, FusedOpenVinoEmitter
    from edgekit.backends.openvino.gemms import FloatGemms, StaticGemms, WeightGemms

    if precision in _FLOAT:
        plan, config, tensors = None, source.model.config, folded_tensors(source)
        gemms = FloatGemms(config, tensors)
    elif source.plan is None:
        raise ExportError(f"{precision} needs a quantization plan", fix="edgekit quantize --model " + source.model_name)
    else:
        plan, config, tensors = source.plan, source.plan.config, source.plan.float_tensors
        strategy = FusedGemms if variant == "fused" else WeightGemms if precision == "w8" else StaticGemms
        gemms = strategy(plan)
    emitter = FusedOpenVinoEmitter if variant == "fused" else OpenVinoEmitter
    e = emitter(config, tensors, gemms, source.head_plan if plan else None)
    if isinstance(e, FusedOpenVinoEmitter):
        e.fuse(plan)
    return model_of(e, source.heads)


def _verify(path: Path, plan: QuantPlan, precision: Precision, variant: Variant) -> None:
    """Refuse a file whose numbers are not the plan's."""
    if variant == "fused":
        from edgekit.backends.openvino.fused import verify_blocks

        verify_blocks(path, plan)
    else:
        from edgekit.backends.openvino.verify import verify_plan

        verify_plan(path, plan, precision)


def stamp(model: ov.Model, described: Mapping[str, object]) -> None:
    """Write the manifest into `rt_info`; a transform of an artifact stamps what it has become."""
    model.set_rt_info(manifest_text(described), _MANIFEST)


def _describe(source: ExportSource, precision: Precision, variant: Variant) -> dict[str, object]:
    """The fields of the artifact that are known before the files are written, in JSON's types."""
    height, width = source.preprocess.input_size
    inputs = (TensorSpec(name=INPUT_NAME, dtype="float32", shape=("batch", 3, height, width), layout="NCHW"),)
    return {
        "name": f"openvino/{precision}" + "_fused" * (variant == "fused"),
        "format": "openvino",
        "precision": precision,
        "variant": variant,
        "inputs": [spec.model_dump(mode="json") for spec in inputs],
        "outputs": [spec.model_dump(mode="json") for spec in outputs_of(source)],
        "preprocess": source.preprocess.model_dump(mode="json"),
        "recipe_digest": source.recipe_digest,
        "parent_sha256": source.parent_sha256,
        "tools": {"openvino": version("openvino")},
        "notes": list(_notes(source, precision, variant)),
    }


def _model_api(source: ExportSource) -> list[tuple[str, str]]:
    """(value, key) under "model_info", which OpenVINO's Model API and DL Streamer read."""
    in_graph = source.preprocess.normalize == "graph"
    mean = (0.0, 0.0, 0.0) if in_graph else tuple(255 * value for value in source.preprocess.mean)
    scale = (1.0, 1.0, 1.0) if in_graph else tuple(255 * value for value in source.preprocess.std)
    return [
        ("feature_extractor", "model_type"),
        (" ".join(f"{value:.6g}" for value in mean), "mean_values"),
        (" ".join(f"{value:.6g}" for value in scale), "scale_values"),
        ("True", "reverse_input_channels"),  # both read BGR frames; the model takes RGB
        ("crop", "resize_type"),  # the nearest they know: no margin around the crop
        (source.model_name, "model_name"),
        (source.licence, "licence"),
    ]


def _notes(source: ExportSource, precision: Precision, variant: Variant) -> tuple[str, ...]:
    if source.plan is None or precision in _FLOAT:
        return ()
    notes = source.exceptions()
    standard = variant == "standard" or source.head_plan is not None  # heads are in standard ops always
    if precision == "w8a8" and standard and source.eight_bits:
        from edgekit.backends.openvino.runner import int8_saturates

        notes.append(_SATURATES.format(this=", of which this is one," if int8_saturates() else ""))
    return tuple(notes)
