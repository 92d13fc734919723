"""Runs a TFLite artifact in ai-edge-litert, or in the older tflite-runtime, with numpy alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.artifact import INPUT_NAME, Artifact
from edgekit.backends.base import runtime_errors
from edgekit.errors import BackendMissing, DataError
from edgekit.precision import Precision, Variant

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

Runtime = Literal["ai_edge_litert", "tflite_runtime"]
RUNTIMES: tuple[Runtime, ...] = ("ai_edge_litert", "tflite_runtime")  # the first that is installed is used
_DESCRIPTOR = threading.Lock()
SIGNATURE = "serving_default"


def runs_in_tflite_runtime(precision: Precision, variant: Variant) -> bool:
    """Whether tflite-runtime 2.14 computes such a file rightly."""
    return precision != "w4a8" and variant == "standard"


def installed_runtime() -> Runtime | None:
    """The runtime that artifacts run in here."""
    return next((runtime for runtime in RUNTIMES if find_spec(runtime)), None)


class TfliteRunner:
    """An interpreter of one artifact with XNNPACK, which both runtimes switch on by themselves.

    It may be called from several threads, which take turns: an interpreter for each thread would have weights of its
    own, packed by XNNPACK (88 MB for ViT-S/14 in FP32), to take 109 ms an image instead of 177 ms on two cores.
    """

    def __init__(self, artifact: Artifact, threads: int | None, runtime: Runtime) -> None:
        """Load `artifact`; None takes all cores, as the other runtimes do by themselves: this one would take one.

        Raises:
            BackendMissing: the runtime is too old for this file, or was built for another numpy.
            DataError: the file is missing or damaged, or has other inputs and outputs than the contract.
        """
        if runtime == "tflite_runtime" and not runs_in_tflite_runtime(artifact.precision, artifact.variant):
            composite = artifact.variant == "composite"
            raise BackendMissing(
                f"{artifact.name} does not run in tflite-runtime",
                why="it knows no composites"
                if composite
                else "its kernel ignores the weight scales per channel and would compute nonsense",
                fix="pip install ai-edge-litert, or use model_w8a8.tflite",
            )
        self.artifact = artifact
        self.interpreter = open_interpreter(artifact, threads, runtime)
        signatures: dict[str, Any] = self.interpreter.get_signature_list()
        names = signatures.get(SIGNATURE, {"inputs": [], "outputs": []})
        self._names = [spec.name for spec in artifact.outputs]
        if names["inputs"] != [INPUT_NAME] or sorted(names["outputs"]) != sorted(self._names):
            raise DataError(
                f"{artifact.path} has the signatures {signatures}",
                why="not what edgekit writes",
                fix="edgekit export --format tflite --out OUT",
            )
        (self._input,) = self.interpreter.get_input_details()
        self._outputs = {detail["name"]: detail for detail in self.interpreter.get_output_details()}
        self._batch = 1
        self._alone = threading.Lock()

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """Run pixels (B, 3, H, W) float32: every output of the artifact by name, float32."""
        with self._alone, runtime_errors(f"{self.artifact.path} does not run"):
            return self._run(pixel_values)

    def _run(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        if len(pixel_values) != self._batch:
            shape = (len(pixel_values), *self.artifact.inputs[0].shape[1:])
            self.interpreter.resize_tensor_input(self._input["index"], shape)
            self.interpreter.allocate_tensors()
            self._batch = len(pixel_values)
        self.interpreter.set_tensor(self._input["index"], quantized(pixel_values.transpose(0, 2, 3, 1), self._input))
        self.interpreter.invoke()
        outputs = {name: self._outputs[name] for name in self._names}
        return {name: dequantized(self.interpreter.get_tensor(d["index"]), d) for name, d in outputs.items()}  # copies


def quantized(x: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """Floats in the number type of an input."""
    if detail["dtype"] == np.float32:
        return np.ascontiguousarray(x, np.float32)
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    return np.ascontiguousarray(np.clip(np.rint(x / scale) + zero_point, limits.min, limits.max), detail["dtype"])


def dequantized(x: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """The float32 values that an output stands for."""
    if x.dtype == np.float32:
        return x
    scale, zero_point = detail["quantization"]
    return (x.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def open_interpreter(artifact: Artifact, threads: int | None, runtime: Runtime) -> Interpreter:
    """Load the file and allocate its tensors for one image.

    Raises:
        BackendMissing: tflite-runtime beside numpy 2, for which it was not built.
        DataError: the file is missing or damaged.
    """
    if not artifact.path.is_file():
        raise DataError(f"{artifact.path} is missing", fix="edgekit export --format tflite --out OUT")
    module = import_module(f"{runtime}.interpreter")
    try:
        with without_greeting():
            interpreter: Interpreter = module.Interpreter(model_path=str(artifact.path), num_threads=threads or cores())
            interpreter.allocate_tensors()
    except SystemError as error:  # its C++ part could not import numpy's C API
        raise BackendMissing(
            "tflite-runtime cannot run beside numpy 2",
            why=str(error),
            fix="pip install 'edgekit[tflite-legacy]' in its own environment",
        ) from None
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"{runtime.replace('_', '-')} cannot load {artifact.path}",
            why=str(error).strip(),
            fix="edgekit export --format tflite --out OUT",
        ) from None
    return interpreter


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def without_greeting() -> Iterator[None]:
    """Hold back file descriptor 2: XNNPACK says "INFO: Created ..." from C++, without a switch; errors are raised.

    One thread at a time: a second one would keep, and give back, the descriptor that leads nowhere.
    """
    with _DESCRIPTOR:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
