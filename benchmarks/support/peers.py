"""The other tools' ways to quantize or run the same model: each makes a file from the FP32 artifact, or needs none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifact import INPUT_NAME, Artifact
from edgekit.measure.worker import Target
from edgekit.precision import Precision

AI_EDGE_IMAGES = 4

Run = Callable[[np.ndarray], dict[str, np.ndarray]]
Make = Callable[[Artifact, np.ndarray, Path], None]  # FP32 artifact, calibration pixels (n, 3, H, W), file to write


@dataclass(frozen=True)
class Peer:
    """`source` names the FP32 artifact of a build that `make` starts from; PyTorch starts from the checkpoint."""

    name: str
    engine: str
    runtime: str
    precision: Precision
    source: str
    make: Make | None = None

    def prepare(self, source: Artifact, calibration: np.ndarray, folder: Path) -> Path:
        """The peer's file, made unless it is there."""
        path = folder / f"{self.name.replace('/', '_')}{source.path.suffix}"
        if self.make and not path.exists():
            partial = path.with_stem(f"partial_{path.stem}")
            self.make(source, calibration, partial)
            partial.rename(path)
        return path

    def target(self, source: Artifact, path: Path, model: str) -> Target:
        """What a worker opens: the file with its runtime's own defaults."""
        if self.runtime == "torch":
            argument = {"model": model, "size": source.preprocess.input_size, "how": self.name}
            return Target(loader="benchmarks.support.peers:load_torch", argument=argument, name=self.name)
        return Target(
            loader=f"benchmarks.support.peers:load_{self.runtime}", argument={"path": str(path)}, name=self.name
        )


def ort_static(source: Artifact, calibration: np.ndarray, path: Path) -> None:
    """ONNX Runtime's quantize_static, per channel, as its documentation says to run it on a transformer."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, pixels: np.ndarray) -> None:
            self.images = iter(pixels)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT_NAME: image[None]}

    quantize_static(
        _prepared(source, path),
        path,
        Reader(calibration),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def ort_dynamic(source: Artifact, calibration: np.ndarray, path: Path) -> None:
    """ONNX Runtime's quantize_dynamic, per channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(_prepared(source, path), path, per_channel=True, weight_type=QuantType.QInt8)


def ort_optimizer(source: Artifact, calibration: np.ndarray, path: Path) -> None:
    """ONNX Runtime's transformers optimizer with its patterns for ViT, in float32."""
    from onnxruntime.transformers.optimizer import optimize_model

    optimize_model(str(source.path), model_type="vit").save_model_to_file(str(path))


def _prepared(source: Artifact, path: Path) -> Path:
    """The float model with shapes inferred, which both quantizers ask for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = path.with_name("ort_prepared.onnx")
    if not prepared.exists():
        quant_pre_process(source.path, prepared, skip_symbolic_shape=True)
    return prepared


def ai_edge_static(source: Artifact, calibration: np.ndarray, path: Path) -> None:
    """AI Edge Quantizer's static recipe, int8 weights and activations; it calibrates for minutes per image."""
    tool = _ai_edge("static_wi8_ai8", source)
    images = [{INPUT_NAME: np.ascontiguousarray(x[None].transpose(0, 2, 3, 1))} for x in calibration[:AI_EDGE_IMAGES]]
    tool.quantize(tool.calibrate({"serving_default": images}, num_threads=1), serialize_to_path=str(path))


def ai_edge_dynamic(source: Artifact, calibration: np.ndarray, path: Path) -> None:
    """AI Edge Quantizer's dynamic recipe, int8 weights."""
    _ai_edge("dynamic_wi8_afp32", source).quantize(None, serialize_to_path=str(path))


def _ai_edge(how: str, source: Artifact) -> Any:
    """The tool with one of its ready recipes; inputs and outputs stay float, as in every other file."""
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(str(source.path), getattr(recipe, how)())
    for end in ("INPUT", "OUTPUT"):
        tool.update_quantization_recipe(".*", recipe.TFLOperationName[end], None, recipe.AlgorithmName.NO_QUANTIZE)
    return tool


PEERS: tuple[Peer, ...] = (
    Peer("onnx/ort_optimizer", "ONNX Runtime optimizer (vit)", "onnxruntime", "fp32", "onnx/fp32", ort_optimizer),
    Peer("onnx/ort_dynamic", "ONNX Runtime quantize_dynamic", "onnxruntime", "w8a8", "onnx/fp32", ort_dynamic),
    Peer("onnx/ort_static", "ONNX Runtime quantize_static", "onnxruntime", "w8a8", "onnx/fp32", ort_static),
    Peer("tflite/aeq_dynamic", "AI Edge Quantizer, dynamic", "tflite", "w8a8", "tflite/fp32", ai_edge_dynamic),
    Peer("tflite/aeq_static", "AI Edge Quantizer, static", "tflite", "w8a8", "tflite/fp32", ai_edge_static),
    Peer("torch/eager", "PyTorch eager", "torch", "fp32", "onnx/fp32"),
    Peer("torch/compile", "torch.compile", "torch", "fp32", "onnx/fp32"),
)


def load_onnxruntime(argument: dict[str, Any], threads: int | None) -> Run:
    """A session with ONNX Runtime's own options: ours would mend what a CPU without VNNI does to a peer's file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    session = ort.InferenceSession(argument["path"], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda pixels: dict(zip(names, session.run(None, {INPUT_NAME: pixels}), strict=True))


def load_tflite(argument: dict[str, Any], threads: int | None) -> Run:
    """An interpreter with XNNPACK, called by its signature: the quantizer gives the tensors behind it other names."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=argument["path"], num_threads=threads)
    call = interpreter.get_signature_runner("serving_default")
    return lambda pixels: call(**{INPUT_NAME: np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))})


def load_torch(argument: dict[str, Any], threads: int | None) -> Run:
    """The float model in PyTorch, as it is or compiled for its one shape."""
    import torch

    from edgekit.models import zoo

    if threads:
        torch.set_num_threads(threads)
    model: Any = zoo.load(argument["model"]).model.bake(*argument["size"]).eval()
    if argument["how"] == "torch/compile":
        model = torch.compile(model)

    @torch.inference_mode()
    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {"last_hidden_state": model(torch.from_numpy(pixels))[0].numpy()}

    return run


def features(target: Target, pixels: np.ndarray) -> np.ndarray:
    """`last_hidden_state` (n, N, D) of images (n, 3, H, W), one by one; run it in a process of its own."""
    from importlib import import_module

    module, _, function = target.loader.partition(":")
    run: Run = getattr(import_module(module), function)(target.argument, None)
    return np.concatenate([run(image[None])["last_hidden_state"] for image in pixels])
