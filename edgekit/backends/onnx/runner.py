"""Runs an ONNX artifact in ONNX Runtime on the CPU, with numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.artifact import INPUT_NAME, Artifact
from edgekit.backends.base import require_fit, runtime_errors
from edgekit.cpu import cpu_saturates
from edgekit.errors import DataError

if TYPE_CHECKING:
    import onnxruntime as ort


class OnnxRunner:
    """A session of one artifact; fused files bring edgekit's op library along."""

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        """Load `artifact`; None leaves the number of threads to ONNX Runtime.

        Raises:
            BackendMissing: the op library of a fused file is not here.
            DataError: the file is missing or damaged, or has other inputs and outputs than the contract.
        """
        import onnxruntime as ort

        self.artifact = artifact
        if not artifact.path.is_file():
            raise DataError(f"{artifact.path} is missing", fix="edgekit export --format onnx --out OUT")
        options = session_options(artifact, threads)
        try:
            self.session = ort.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class, and a custom op adds its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise DataError(
                f"ONNX Runtime {ort.__version__} cannot load {artifact.path}",
                why=reason,
                fix="edgekit export --format onnx --out OUT",
            ) from None
        names = [value.name for value in self.session.get_outputs()]
        self._outputs = [spec.name for spec in artifact.outputs]
        if [value.name for value in self.session.get_inputs()] != [INPUT_NAME] or names != self._outputs:
            raise DataError(
                f"{artifact.path} has outputs {', '.join(names)}, not {', '.join(self._outputs)}",
                fix="edgekit export --format onnx --out OUT",
            )

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """Run pixels (B, 3, H, W) float32: every output of the artifact by name, float32."""
        require_fit(self.artifact, pixel_values)
        with runtime_errors(f"{self.artifact.path} does not run"):
            results = self.session.run(self._outputs, {INPUT_NAME: np.ascontiguousarray(pixel_values, np.float32)})
        return dict(zip(self._outputs, results, strict=True))


def session_options(artifact: Artifact, threads: int | None) -> ort.SessionOptions:
    """Options with which edgekit runs a file: all graph optimizations, and integer arithmetic that does not saturate.

    Raises:
        BackendMissing: the op library of a fused file is not here.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if artifact.precision not in ("fp32", "fp16") and cpu_saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")  # u8*u8 instead of u8*s8
    if artifact.precision == "w4a8":
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")  # int8 activations
    if artifact.variant == "fused":
        register_ops(options)
    return options


def register_ops(options: ort.SessionOptions) -> None:
    """Make edgekit's op library known to the sessions that these options open.

    Raises:
        BackendMissing: it is not built here.
    """
    from edgekit import native as ops

    options.register_custom_ops_library(str(ops.ort_library()))
