"""OpenVINO IR: FP32, FP16-compressed, int8 weights or int8 GEMMs, written from the model's tensors or a QuantPlan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from xml.etree import ElementTree

import numpy as np

from edgekit.artifact import (
    INPUT_NAME,
    OUTPUT_NAMES,
    Artifact,
    Format,
    Precision,
    TensorSpec,
    Variant,
    atomic_path,
    sha256_of,
    size_mb_of,
)
from edgekit.backends.base import ExportSource, Runner, folded_tensors
from edgekit.backends.metadata import artifact_from, manifest_text
from edgekit.backends.saturation import cpu_saturates
from edgekit.errors import BackendMissing, DataError, ExportError

if TYPE_CHECKING:
    import openvino as ov

    from edgekit.quantize.plan import QuantPlan

Hint = Literal["latency", "throughput"]

_FLOAT: frozenset[Precision] = frozenset({"fp32", "fp16"})
_MANIFEST = ["edgekit", "manifest"]  # its place in rt_info
_INSTALL = "pip install 'edgekit[openvino]'"
_SATURATES = (
    '8-bit weights: int8 GEMMs of x86 CPUs without VNNI{this} saturate; overflow = "reduce-range" in the recipe makes '
    "them 7-bit, the fused file is exact as it is"
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
            raise ExportError(f"the OpenVINO backend does not write {precision} {variant}",
                              fix="--precision " + ",".join(sorted({p for p, _ in self.variants()})))  # fmt: skip
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
        _both_files(path)
        try:
            found = ElementTree.parse(path).find("/".join(("rt_info", *_MANIFEST)))
        except ElementTree.ParseError as error:
            raise DataError(f"{path} is not a readable OpenVINO model", why=str(error),
                            fix="edgekit export --format openvino") from None  # fmt: skip
        return artifact_from(path, found.get("value") if found is not None else None)

    def runner(self, artifact: Artifact, threads: int | None = None) -> Runner:
        """Load an artifact on the CPU.

        Raises:
            BackendMissing: OpenVINO is not installed.
            DataError: the files are missing, damaged or hold another model.
        """
        if problem := self.runner_missing():
            raise BackendMissing(problem, fix=_INSTALL)
        return OpenVinoRunner(artifact, threads, self.hint, self.cache_dir)

    def audit(self, artifact: Artifact) -> dict[str, object]:
        """What the CPU plugin really runs; see `openvino_audit.audit_model`."""
        if problem := self.runner_missing():
            raise BackendMissing(problem, fix=_INSTALL)
        from edgekit.backends.openvino_audit import audit_model

        core = _core(artifact.variant)
        return audit_model(read_model(artifact.path, core), core, plugin_settings("latency", None))


class OpenVinoRunner:
    """A compiled IR. Float arithmetic is float32 (the plugin's own default would be bfloat16 on some CPUs)."""

    def __init__(self, artifact: Artifact, threads: int | None, hint: Hint, cache_dir: Path | None) -> None:
        """Compile `artifact` for the CPU; `threads` None leaves their number to the runtime."""
        import openvino as ov

        core = _core(artifact.variant)
        if cache_dir is not None:
            core.set_property({"CACHE_DIR": str(cache_dir)})
        self.artifact = artifact
        self._input = artifact.inputs[0]
        self.compiled = core.compile_model(read_model(artifact.path, core), "CPU", plugin_settings(hint, threads))
        self._queue = ov.AsyncInferQueue(self.compiled) if hint == "throughput" else None
        self._request = self.compiled.create_infer_request()

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """(B, 3, H, W) float32 -> both outputs by contract name; each call returns arrays of its own.

        An artifact with embedded preprocessing takes (B, height, width, 3) uint8 instead, as its input spec says.
        """
        if self._queue is not None:
            return self._spread(pixel_values)
        results = self._request.infer({self._input.name: np.ascontiguousarray(pixel_values, self._input.dtype)})
        return {name: results[name].copy() for name in OUTPUT_NAMES}

    def _spread(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """One request per image, in parallel streams; order is kept."""
        assert self._queue is not None
        rows: list[dict[str, np.ndarray]] = [{} for _ in pixel_values]

        def keep(request: ov.InferRequest, index: int) -> None:
            rows[index] = {name: request.get_tensor(name).data.copy() for name in OUTPUT_NAMES}

        self._queue.set_callback(keep)
        for index, image in enumerate(np.ascontiguousarray(pixel_values, self._input.dtype)):
            self._queue.start_async({self._input.name: image[None]}, index)
        self._queue.wait_all()
        return {name: np.concatenate([row[name] for row in rows]) for name in OUTPUT_NAMES}


def plugin_settings(hint: Hint, threads: int | None) -> dict[str, Any]:
    """CPU plugin configuration: float32 arithmetic, and no quantization of activations that the plan does not know."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "PERFORMANCE_HINT": hint.upper(),
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def read_model(path: Path, core: ov.Core | None = None) -> ov.Model:
    """The IR at `path`; a fused one needs a core that knows edgekit's ops.

    Raises:
        DataError: `.xml` or `.bin` is missing or damaged.
    """
    import openvino as ov

    _both_files(path)
    try:
        return (core or ov.Core()).read_model(path)
    except RuntimeError as error:
        raise DataError(f"{path} is not a readable OpenVINO model", why=str(error).strip().splitlines()[-1],
                        fix="edgekit export --format openvino") from None  # fmt: skip


def _both_files(path: Path) -> None:
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise DataError(f"{file} is missing", why="an OpenVINO model is two files, .xml and .bin",
                            fix="edgekit export --format openvino")  # fmt: skip


def _core(variant: Variant) -> ov.Core:
    """The runtime, with edgekit's ops when a file needs them; raises BackendMissing when they are not here."""
    if variant == "fused":
        from edgekit.backends.openvino_fused import fused_core

        return fused_core()
    import openvino as ov

    return ov.Core()


def _graph(source: ExportSource, precision: Precision, variant: Variant) -> ov.Model:
    from edgekit.backends.openvino_graph import FloatGemms, Writer, build_model
    from edgekit.backends.openvino_quant import IntegerGemms, WeightGemms

    if precision in _FLOAT:
        config, tensors = source.model.config, folded_tensors(source)
        if variant == "fused":
            from edgekit.backends.openvino_fused import FusedWriter

            return build_model(FusedWriter(config, tensors, FloatGemms(tensors)))
        return build_model(Writer(config, tensors, FloatGemms(tensors)))
    plan = source.plan
    if plan is None:
        raise ExportError(f"{precision} needs a quantization plan", fix="edgekit quantize --model " + source.model_name)
    if variant == "fused":
        from edgekit.backends.openvino_fused import FusedGemms, FusedWriter

        return build_model(FusedWriter(plan.config, plan.float_tensors, FusedGemms(plan), plan))
    gemms = WeightGemms(plan) if precision == "w8" else IntegerGemms(plan)
    return build_model(Writer(plan.config, plan.float_tensors, gemms))


def _verify(path: Path, plan: QuantPlan, precision: Precision, variant: Variant) -> None:
    """Refuse a file whose numbers are not the plan's."""
    if variant == "fused":
        from edgekit.backends.openvino_fused import verify_blocks

        verify_blocks(path, plan)
    else:
        from edgekit.backends.openvino_verify import verify_plan

        verify_plan(path, plan, precision)


def stamp(model: ov.Model, described: Mapping[str, object]) -> None:
    """Write the manifest into `rt_info`; a transform of an artifact stamps what it has become."""
    model.set_rt_info(manifest_text(described), _MANIFEST)


def _describe(source: ExportSource, precision: Precision, variant: Variant) -> dict[str, object]:
    """The fields of the artifact that are known before the files are written, in JSON's types."""
    height, width = source.preprocess.input_size
    tokens, channels = source.model.config.tokens(height, width), source.model.config.width
    shapes: tuple[tuple[int | str, ...], ...] = (("batch", tokens, channels), ("batch", channels))
    inputs = (TensorSpec(name=INPUT_NAME, dtype="float32", shape=("batch", 3, height, width), layout="NCHW"),)
    outputs = (TensorSpec(name=n, dtype="float32", shape=s) for n, s in zip(OUTPUT_NAMES, shapes, strict=True))
    return {
        "name": f"openvino/{precision}" + "_fused" * (variant == "fused"),
        "format": "openvino",
        "precision": precision,
        "variant": variant,
        "inputs": [spec.model_dump(mode="json") for spec in inputs],
        "outputs": [spec.model_dump(mode="json") for spec in outputs],
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
    notes = [f"{name} stays float: {reason}" for name, reason in source.plan.kept_float.items()]
    eight_bits = any(gemm.weight_bits == 8 for gemm in source.plan.gemms.values())
    if precision == "w8a8" and variant == "standard" and eight_bits:
        notes.append(_SATURATES.format(this=", of which this is one," if cpu_saturates() else ""))
    return tuple(notes)
