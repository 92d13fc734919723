"""Runs an IR on the CPU with the arithmetic its plan means (float32, exact int8), or with the plugin's own."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov
from openvino import opset13 as op

from edgekit.artifact import Artifact
from edgekit.backends.base import require_fit, runtime_errors
from edgekit.errors import DataError
from edgekit.precision import Arithmetic, Precision, Variant

Hint = Literal["latency", "throughput"]
_SEVEN_BITS = 64  # 2 * 255 * 64 fits int16


class OpenVinoRunner:
    """A compiled IR. Float arithmetic is float32, unless the artifact leaves it to the plugin (bfloat16 on some CPUs).

    It may be called from several threads, which take turns. A request for each thread was no faster (ViT-S/14, two
    cores, 8 callers: 186 ms an image, taking turns 169 ms): compiled for latency, the plugin runs one at a time.
    """

    def __init__(self, artifact: Artifact, threads: int | None, hint: Hint, cache_dir: Path | None) -> None:
        """Compile `artifact` for the CPU; `threads` None leaves their number to the runtime.

        Raises:
            BackendMissing: it is a fused one and edgekit's ops are not built here.
            DataError: the files are missing or damaged.
        """
        core = core_for(artifact.variant)
        if cache_dir is not None:
            core.set_property({"CACHE_DIR": str(cache_dir)})
        self.artifact = artifact
        self._input = artifact.inputs[0]
        self._outputs = [spec.name for spec in artifact.outputs]
        model = read_model(artifact.path, core)
        self.compiled = core.compile_model(model, "CPU", plugin_settings(model, hint, threads, artifact.arithmetic))
        self._queue = ov.AsyncInferQueue(self.compiled) if hint == "throughput" else None
        self._request = self.compiled.create_infer_request()
        self._alone = threading.Lock()

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """Run pixels (B, 3, H, W) float32: every output by name; each call returns arrays of its own.

        An artifact with embedded preprocessing takes (B, height, width, 3) uint8 instead, as its input spec says.
        """
        require_fit(self.artifact, pixel_values)
        with self._alone, runtime_errors(f"{self.artifact.path} does not run"):
            if self._queue is not None:
                return self._spread(pixel_values)
            results = self._request.infer({self._input.name: np.ascontiguousarray(pixel_values, self._input.dtype)})
            return {name: results[name].copy() for name in self._outputs}

    def _spread(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """One request per image, in parallel streams; order is kept."""
        assert self._queue is not None
        rows: list[dict[str, np.ndarray]] = [{} for _ in pixel_values]

        def keep(request: ov.InferRequest, index: int) -> None:
            rows[index] = {name: request.get_tensor(name).data.copy() for name in self._outputs}

        self._queue.set_callback(keep)
        for index, image in enumerate(np.ascontiguousarray(pixel_values, self._input.dtype)):
            self._queue.start_async({self._input.name: image[None]}, index)
        self._queue.wait_all()
        return {name: np.concatenate([row[name] for row in rows]) for name in self._outputs}


def load_for_throughput(argument: dict[str, Any], threads: int | None) -> OpenVinoRunner:
    """Open an artifact (as its JSON) for a worker that measures latency, its batch spread over parallel streams."""
    return OpenVinoRunner(Artifact.model_validate(argument), threads, "throughput", None)


def plugin_settings(
    model: ov.Model, hint: Hint, threads: int | None, arithmetic: Arithmetic = "plan"
) -> dict[str, Any]:
    """CPU plugin configuration: float32 arithmetic, and no quantization of activations that the plan does not know.

    With the arithmetic "default" all of that is left to the plugin. Where int8 products of the model's weights would
    saturate, the plan's integers are multiplied as floats: right, on AVX2 about as fast, on AVX-512 without VNNI half
    as fast (7-bit weights run in int8 there).
    """
    settings: dict[str, Any] = {"PERFORMANCE_HINT": hint.upper()}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    if arithmetic == "default":
        return settings
    settings |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    if _beyond_seven_bits(model) and int8_saturates():
        settings["LP_TRANSFORMS_MODE"] = "NO"
    return settings


@cache
def own_arithmetic(precision: Precision, variant: Variant) -> str | None:
    """Clause on what the plugin does of its own accord with such a file on this CPU; None: what the plan means."""
    core = ov.Core()
    floats = core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    group = int(core.get_property("CPU", "DYNAMIC_QUANTIZATION_GROUP_SIZE"))
    found = [] if floats == "f32" or precision == "fp16" else [f"floats are {floats}"]  # fp16 files: as fp32 ones
    if precision == "w8" and group:
        found.append(f"activations are rounded to 8 bits in groups of {group}")
    if precision == "w8a8" and variant == "standard" and int8_saturates():
        found.append("sums of int8 products saturate at 16 bits")
    return ", ".join(found) or None


def _beyond_seven_bits(model: ov.Model) -> bool:
    """Whether two adjacent u8*s8 products of its int8 weights can exceed int16."""
    stored = (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant")
    return any(
        np.any(np.abs(node.data, dtype=np.int16) > _SEVEN_BITS)
        for node in stored
        if node.get_element_type() == ov.Type.i8
    )


@cache
def int8_saturates() -> bool:
    """Whether this CPU adds u8*s8 products in 16 bits, found by one product: 255 * 127 * 64 is far beyond them.

    Asked of the plugin rather than of the CPU's flags, which not every system shows.
    """
    size, top = 64, np.float32(255)
    x = op.parameter([1, 16, size], np.float32, name="x")
    ends = [op.constant(np.float32(0), name="low"), op.constant(top, name="high")]
    rounded = op.fake_quantize(x, *ends, *ends, 256, name="x/quantized")
    weight = op.convert(op.constant(np.full((size, size), 127, np.int8), name="weight"), "f32", name="weight/float")
    scaled = op.multiply(weight, op.constant(np.ones((size, 1), np.float32), name="scale"), name="weight/scaled")
    model = ov.Model([op.matmul(rounded, scaled, False, True, name="product")], [x], "probe")
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return bool(np.any(compiled(np.full((1, 16, size), top))[0] != top * 127 * size))


def read_model(path: Path, core: ov.Core | None = None) -> ov.Model:
    """The IR at `path`; a fused one needs a core that knows edgekit's ops.

    Raises:
        DataError: `.xml` or `.bin` is missing or damaged.
    """
    require_both_files(path)
    try:
        return (core or ov.Core()).read_model(path)
    except RuntimeError as error:
        raise DataError(
            f"{path} is not a readable OpenVINO model",
            why=str(error).strip().splitlines()[-1],
            fix="edgekit export --format openvino --out OUT",
        ) from None


def require_both_files(path: Path) -> None:
    """Raises DataError when `.xml` or `.bin` is missing."""
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise DataError(
                f"{file} is missing",
                why="an OpenVINO model is two files, .xml and .bin",
                fix="edgekit export --format openvino --out OUT",
            )


def core_for(variant: Variant) -> ov.Core:
    """The runtime, with edgekit's ops when a file needs them; raises BackendMissing when they are not here."""
    if variant == "fused":
        from edgekit.backends.openvino.fused import fused_core

        return fused_core()
    return ov.Core()
