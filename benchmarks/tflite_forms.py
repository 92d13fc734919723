"""TFLite's forms that edgekit writes when asked for, beside ai-edge-quantizer's: integers throughout, and composites.

    edgekit build --model demo --format tflite --precision fp32,w8a8,w8a16 --fused-attention --out OUT
    pip install ai-edge-quantizer==0.10.0
    python -m benchmarks.tflite_forms OUT [--csv benchmarks/results/tflite_forms.csv]

Drift on the demo's evaluation photographs against tflite/fp32; least CPU time of a call on one thread, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from numpy.typing import NDArray

from benchmarks.support.rows import write_csv
from edgekit.backends import load
from edgekit.backends.tflite.builder import FloatBuilder
from edgekit.backends.tflite.composite import CompositeEmitter
from edgekit.backends.tflite.emitter import TfliteEmitter, model_of
from edgekit.backends.tflite.gemms import FloatGemms
from edgekit.backends.tflite.runner import without_greeting
from edgekit.graph.backbone import emit_attention
from edgekit.graph.emitter import Tensors
from edgekit.images import load_set
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import features_of
from edgekit.models.config import ViTConfig
from edgekit.plan.quant import QuantPlan

ROUNDS, CALIBRATION, JUDGES = 8, 24, 16
RECIPES = {"int8": recipe.static_wi8_ai8, "int16": recipe.static_wi8_ai16}
HEADS, CHANNELS = 6, 64
OURS = {
    "fp32": "model.tflite",
    "fp32, attention as a composite": "model_fp32_composite.tflite",
    "w8a8": "model_w8a8.tflite",
    "w8a8, a range per token": "model_w8a8_fused.tflite",
    "w8a8, a range per token, attention as a composite": "model_w8a8_composite.tflite",
    "full integer, int16 between int8 borders: w8a16": "model_w8a16.tflite",
}
Row = dict[str, object]


class File:
    """Any .tflite file on one thread, fed floats and read as floats whatever its own types are."""

    def __init__(self, path: Path) -> None:
        with without_greeting():
            self.interpreter = Interpreter(model_path=str(path), num_threads=1)
            self.interpreter.allocate_tensors()
        (self.input,) = self.interpreter.get_input_details()
        self.size_mb = round(path.stat().st_size / 1e6, 1)

    @property
    def partitions(self) -> int:
        """Runs of operators that XNNPACK took."""
        return sum(node["op_name"] == "DELEGATE" for node in self.interpreter._get_ops_details())

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """(1, 3, H, W) -> `last_hidden_state` (1, N, D)."""
        self.run(pixel_values.transpose(0, 2, 3, 1))
        outputs = [
            (detail, self.interpreter.get_tensor(detail["index"])) for detail in self.interpreter.get_output_details()
        ]
        detail, hidden = next(pair for pair in outputs if pair[1].ndim == 3)
        scale, zero = detail["quantization"]
        return {
            "last_hidden_state": hidden if hidden.dtype == np.float32 else (hidden.astype(np.float32) - zero) * scale
        }

    def run(self, x: NDArray[np.float32]) -> float:
        """CPU seconds of one call."""
        dtype, (scale, zero) = self.input["dtype"], self.input["quantization"]
        if dtype != np.float32:
            limits = np.iinfo(dtype)
            x = np.clip(np.rint(x / scale) + zero, limits.min, limits.max)
        self.interpreter.set_tensor(self.input["index"], np.ascontiguousarray(x, dtype))
        start = time.process_time()
        self.interpreter.invoke()
        return time.process_time() - start


def full_integer(source: Path, kind: str, pixels: np.ndarray, target: Path) -> Path:
    """ai-edge-quantizer's static quantization of all operators, inputs and outputs."""
    held = quantizer.Quantizer(str(source))
    held.load_quantization_recipe(RECIPES[kind]())
    images = [{"pixel_values": np.ascontiguousarray(image[None].transpose(0, 2, 3, 1))} for image in pixels]
    held.quantize(held.calibrate({"serving_default": images})).export_model(str(target))
    return target


def of_the_plan(plan: QuantPlan, target: Path) -> Path:
    """The plan's rewritten model as a float file, its weights those that the plan's integers stand for."""
    tensors = dict(plan.float_tensors)
    for name, gemm in plan.gemms.items():
        tensors[f"{name}.weight"] = gemm.dequantized().reshape(tensors[f"{name}.weight"].shape)
        tensors[f"{name}.bias"] = gemm.bias_dynamic
    target.write_bytes(model_of(float_emitter(TfliteEmitter, plan.config, tensors), "the plan in float", {}))
    return target


def model_rows(build: Path, folder: Path) -> Iterator[Row]:
    """Whole models."""
    artifact = load(build / "tflite" / "model.tflite").artifact
    calibration = load_set("demo", artifact.preprocess, samples=CALIBRATION, seed=0, split="calibration").pixel_values
    judges = load_set("demo", artifact.preprocess, samples=JUDGES, seed=1, split="evaluation").pixel_values
    plan = of_the_plan(QuantPlan.load(build / "plan" / "int8.safetensors"), folder / "plan.tflite")
    files = {
        **{form: File(build / "tflite" / name) for form, name in OURS.items()},
        **{
            f"full integer, {kind}, ai-edge-quantizer": File(
                full_integer(artifact.path, kind, calibration, folder / kind)
            )
            for kind in RECIPES
        },
        "full integer, int8, ai-edge-quantizer with the plan's rewrites and weights": File(
            full_integer(plan, "int8", calibration, folder / "planned")
        ),
    }
    reference = features_of(files["fp32"], judges, patch=14)
    times = in_turns({name: (file, judges[:1].transpose(0, 2, 3, 1)) for name, file in files.items()})
    for name, file in files.items():
        drift = measure_drift(reference, features_of(file, judges, patch=14))
        yield {
            "form": name,
            "cls_cosine": round(drift.cls_cosine.mean, 5),
            "cls_cosine_min": round(drift.cls_cosine.min, 5),
            "sqnr_db": round(drift.sqnr_db.value, 1),
            "partitions": file.partitions,
            "cpu_ms": times[name],
            "size_mb": file.size_mb,
        }


def attention_rows(tokens: int, folder: Path) -> Iterator[Row]:
    """One attention layer of a ViT-S."""
    x = np.random.default_rng(0).standard_normal((1, tokens, HEADS * CHANNELS)).astype(np.float32)
    kinds = {"operators": TfliteEmitter, "composite": CompositeEmitter}
    files = {form: File(attention(kind, tokens, folder / f"{form}{tokens}.tflite")) for form, kind in kinds.items()}
    times = in_turns({form: (file, x) for form, file in files.items()})
    for form, file in files.items():
        yield {
            "form": f"attention layer, {tokens} tokens, {form}",
            "partitions": file.partitions,
            "cpu_ms": times[form],
            "size_mb": file.size_mb,
        }


def attention(kind: type[TfliteEmitter], tokens: int, target: Path) -> Path:
    """qkv, attention and projection with random weights."""
    generator, width = np.random.default_rng(0), HEADS * CHANNELS
    tensors = {"attn.scale": np.array(1.0, np.float32)}
    for name, outputs in (("attn.qkv", 3 * width), ("attn.proj", width)):
        tensors[f"{name}.weight"] = generator.normal(0, width**-0.5, (outputs, width)).astype(np.float32)
        tensors[f"{name}.bias"] = np.zeros(outputs, np.float32)
    config = ViTConfig("vits14", width=width, depth=1, heads=HEADS, grid=(1, tokens - 1))
    e = float_emitter(kind, config, tensors)
    x = e.graph.input("x", (-1, tokens, width))
    target.write_bytes(e.graph.serialize({"x": x}, {"y": emit_attention(e, "attn", x)}, "one layer", {}))
    return target


def float_emitter(kind: type[TfliteEmitter], config: ViTConfig, tensors: Tensors) -> TfliteEmitter:
    """An emitter that has written nothing yet."""
    builder = FloatBuilder()
    return kind(config, tensors, FloatGemms(builder, config, tensors), builder)


def in_turns(calls: Mapping[str, tuple[File, np.ndarray]]) -> dict[str, float]:
    """Least CPU ms of each file over some rounds: other processes only ever add."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, (file, x) in calls.items():
            seconds[name].append(file.run(x))
    return {name: round(1e3 * min(values), 2) for name, values in seconds.items()}


def main() -> None:
    """Measure, print, and write the CSV if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path, help="a build folder with tflite/fp32 and tflite/w8a8")
    parser.add_argument("--csv", type=Path, help="also write the rows there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [*model_rows(options.build, folder), *attention_rows(257, folder), *attention_rows(1370, folder)]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_csv(rows, options.csv)


if __name__ == "__main__":
    main()
