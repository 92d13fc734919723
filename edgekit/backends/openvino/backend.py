"""OpenVINO IR: FP32, FP16-compressed, int8 weights or int8 GEMMs, written from the model's tensors or a QuantPlan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from edgekit.artifact import Artifact, Format
from edgekit.backends.base import Backend, Described, Runner
from edgekit.backends.openvino.metadata import stamp, stamped
from edgekit.backends.source import ExportSource, folded_tensors
from edgekit.errors import BackendMissing
from edgekit.precision import Precision, Variant

if TYPE_CHECKING:
    import openvino as ov

    from edgekit.backends.openvino.runner import Hint
    from edgekit.recipe import Engine

_SATURATES = (
    "8-bit weights: int8 GEMMs of x86 CPUs without VNNI{this} saturate, edgekit's runner multiplies floats there; "
    'elsewhere set LP_TRANSFORMS_MODE=NO, or overflow = "reduce-range" in the recipe for 7-bit weights'
)


@dataclass(frozen=True)
class OpenVinoBackend(Backend):
    """Reads and writes `.xml` + `.bin`.

    `hint`: "latency" runs a batch as one request; "throughput" spreads its images over parallel streams.
    `cache_dir`: where the runtime keeps compiled models between runs.
    """

    format: ClassVar[Format] = "openvino"
    title: ClassVar[str] = "OpenVINO"
    suffix: ClassVar[str] = ".xml"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)  # which writes its own IR
    runtime_packages: ClassVar[tuple[str, ...]] = ("openvino",)
    kinds: ClassVar[tuple[tuple[Precision, Variant], ...]] = (
        ("fp32", "standard"),
        ("fp16", "standard"),
        ("w8", "standard"),
        ("w8a8", "standard"),
        ("fp32", "fused"),
        ("w8a8", "fused"),
        ("w8a16", "fused"),
    )
    image_input: ClassVar[bool] = True
    any_size: ClassVar[bool] = True
    peers: ClassVar[Mapping[Engine, Precision]] = {"nncf": "w8a8"}
    throughput_loader: ClassVar[str | None] = "edgekit.backends.openvino.runner:load_for_throughput"
    hint: Hint = "latency"
    cache_dir: Path | None = None

    @override
    def fused_missing(self) -> str | None:
        from edgekit.native import openvino_extension

        try:
            openvino_extension()
        except BackendMissing as error:
            return str(error)
        return None

    @override
    def own_arithmetic(self, precision: Precision, variant: Variant) -> str | None:
        from edgekit.backends.openvino.runner import own_arithmetic

        return own_arithmetic(precision, variant)

    @override
    def engine_missing(self, engine: Engine) -> str | None:
        from edgekit.backends.openvino.nncf import nncf_missing

        return nncf_missing()

    @override
    def with_image_input(self, sibling: Artifact, source: ExportSource, path: Path) -> Artifact:
        from edgekit.backends.openvino.preprocess import embed_preprocessing

        return embed_preprocessing(sibling, path)

    @override
    def write(
        self, source: ExportSource, precision: Precision, variant: Variant, path: Path, described: Described
    ) -> None:
        import openvino as ov

        model = _model(source, precision, variant)
        stamp(model, described)
        for value, key in _model_api(source):
            model.set_rt_info(value, ["model_info", key])
        ov.save_model(model, path, compress_to_fp16=precision == "fp16")

    @override
    def verify(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> None:
        """Compare every integer, scale and range with the plan; a build's golden check runs float files."""
        if source.plan is None:
            return
        if variant == "fused":
            from edgekit.backends.openvino.fused import verify_blocks

            verify_blocks(path, source.plan)
        else:
            from edgekit.backends.openvino.verify import verify_plan

            verify_plan(path, source.plan, precision, source.most_tokens)

    @override
    def notes(self, source: ExportSource, precision: Precision, variant: Variant) -> list[str]:
        if source.plan is None:
            return []
        notes = source.mixed_precision_notes()
        if precision == "w8a16":
            notes.append("inside the fused blocks 16 bits per activation, one range per token, exact integer sums")
        standard = variant == "standard" or source.head_plan is not None  # heads are in standard ops always
        if precision == "w8a8" and standard and source.may_saturate_int16:
            from edgekit.backends.openvino.runner import int8_saturates

            notes.append(_SATURATES.format(this=", of which this is one," if int8_saturates() else ""))
        return notes

    @override
    def manifest_of(self, path: Path) -> str | None:
        """The manifest in `rt_info`; needs no other package."""
        from edgekit.backends.openvino.runner import require_both_files

        require_both_files(path)
        return stamped(path)

    @override
    def load(self, artifact: Artifact, threads: int | None) -> Runner:
        from edgekit.backends.openvino.runner import OpenVinoRunner

        return OpenVinoRunner(artifact, threads, self.hint, self.cache_dir)

    @override
    def inspect(self, artifact: Artifact) -> dict[str, object]:
        """Audit of the graph that the CPU plugin runs; see `edgekit.backends.openvino.audit.audit_model`."""
        from edgekit.backends.openvino.audit import audit_model
        from edgekit.backends.openvino.runner import core_for, plugin_settings, read_model

        core = core_for(artifact.variant)
        model = read_model(artifact.path, core)
        return audit_model(model, core, plugin_settings(model, "latency", None, artifact.arithmetic))


def _model(source: ExportSource, precision: Precision, variant: Variant) -> ov.Model:
    from edgekit.backends.openvino.emitter import OpenVinoEmitter, model_of
    from edgekit.backends.openvino.fused import FusedGemms, FusedOpenVinoEmitter
    from edgekit.backends.openvino.gemms import FloatGemms, StaticGemms, WeightGemms

    plan, sides = source.plan, source.preprocess.sides
    if plan is None:
        config, tensors = source.model.config, folded_tensors(source)
        gemms = FloatGemms(config, tensors, sides)
    else:
        config, tensors = plan.config, plan.float_tensors
        gemms = (FusedGemms if variant == "fused" else WeightGemms if precision == "w8" else StaticGemms)(plan, sides)
    emitter = FusedOpenVinoEmitter if variant == "fused" else OpenVinoEmitter
    e = emitter(config, tensors, gemms, source.head_plan, sides)
    if isinstance(e, FusedOpenVinoEmitter):
        e.fuse(plan, precision)
    return model_of(e, source.heads)


def _model_api(source: ExportSource) -> list[tuple[str, str]]:
    """Entries (value, key) under "model_info", which OpenVINO's Model API and DL Streamer read."""
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
