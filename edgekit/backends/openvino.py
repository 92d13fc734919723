"""OpenVINO IR: FP32, FP16-compressed, int8 weights or int8 GEMMs, written from the model's tensors or a QuantPlan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
from edgekit.errors import BackendMissing, DataError, ExportError

if TYPE_CHECKING:
    import openvino as ov

Hint = Literal["latency", "throughput"]

_FLOAT: frozenset[Precision] = frozenset({"fp32", "fp16"})
_MANIFEST = ["edgekit", "manifest"]  # its place in rt_info
_INSTALL = "pip install 'edgekit[openvino]'"
_SATURATES = (
    "8-bit weights: x86 CPUs without VNNI may saturate their int8 GEMMs; quantize with --weight-bits 7 for those"
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
        """The standard-operation precisions."""
        return (("fp32", "standard"), ("fp16", "standard"), ("w8", "standard"), ("w8a8", "standard"))

    def filename(self, precision: Precision, variant: Variant) -> str:
        """`model.xml`, `model_w8a8.xml`, ..."""
        return "model" + (f"_{precision}" if precision != "fp32" else "") + ".xml"

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

        from edgekit.backends.openvino_verify import verify_plan

        model = _graph(source, precision)
        described = _describe(source, precision, variant)
        stamp(model, described)
        for value, key in _model_api(source):
            model.set_rt_info(value, ["model_info", key])
        with atomic_path(path) as temporary:
            ov.save_model(model, temporary, compress_to_fp16=precision == "fp16")
            if source.plan is not None and precision not in _FLOAT:
                verify_plan(temporary, source.plan, precision)
        return Artifact.model_validate(
            described | {"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)}
        )

    def read(self, path: Path) -> Artifact:
        """The artifact that an IR says it is, from its `rt_info`.

        Raises:
            BackendMissing: OpenVINO is not installed.
            DataError: missing, damaged, or not written by edgekit.
        """
        if problem := self.runner_missing():
            raise BackendMissing(problem, fix=_INSTALL)
        model = read_model(path)
        text = model.get_rt_info(_MANIFEST).astype(str) if model.has_rt_info(_MANIFEST) else None
        return artifact_from(path, text)

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

        return audit_model(read_model(artifact.path), plugin_settings("latency", None))


class OpenVinoRunner:
    """A compiled IR. Float arithmetic is float32 (the plugin's own default would be bfloat16 on some CPUs)."""

    def __init__(self, artifact: Artifact, threads: int | None, hint: Hint, cache_dir: Path | None) -> None:
        """Compile `artifact` for the CPU; `threads` None leaves their number to the runtime."""
        import openvino as ov

        core = ov.Core()
        if cache_dir is not None:
            core.set_property({"CACHE_DIR": str(cache_dir)})
        self.artifact = artifact
        self._input = artifact.inputs[0]
        self.compiled = core.compile_model(read_model(artifact.path), "CPU", plugin_settings(hint, threads))
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


def read_model(path: Path) -> ov.Model:
    """The IR at `path`.

    Raises:
        DataError: `.xml` or `.bin` is missing or damaged.
    """
    import openvino as ov

    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise DataError(f"{file} is missing", why="an OpenVINO model is two files, .xml and .bin",
                            fix="edgekit export --format openvino")  # fmt: skip
    try:
        return ov.Core().read_model(path)
    except RuntimeError as error:
        raise DataError(f"{path} is not a readable OpenVINO model", why=str(error).strip().splitlines()[-1],
                        fix="edgekit export --format openvino") from None  # fmt: skip


def _graph(source: ExportSource, precision: Precision) -> ov.Model:
    from edgekit.backends.openvino_graph import FloatGemms, build_model
    from edgekit.backends.openvino_quant import IntegerGemms, WeightGemms

    if precision in _FLOAT:
        tensors = folded_tensors(source)
        return build_model(source.model.config, tensors, FloatGemms(tensors))
    if source.plan is None:
        raise ExportError(
            f"{precision} needs a quantization plan", fix="edgekit quantize --model ... --out plan.safetensors"
        )
    gemms = WeightGemms(source.plan) if precision == "w8" else IntegerGemms(source.plan)
    return build_model(source.plan.config, source.plan.float_tensors, gemms)


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
        "notes": list(_notes(source, precision)),
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


def _notes(source: ExportSource, precision: Precision) -> tuple[str, ...]:
    if source.plan is None or precision in _FLOAT:
        return ()
    notes = [f"{name} stays float: {reason}" for name, reason in source.plan.kept_float.items()]
    if precision == "w8a8" and any(gemm.weight_bits == 8 for gemm in source.plan.gemms.values()):
        notes.append(_SATURATES)
    return tuple(notes)
