"""Heads of official sizes in INT8 files: their time, size and drift with float layers and with integers.

    edgekit build --model demo --precision w8a8 --out OUT
    python -m benchmarks.heads OUT [--csv benchmarks/results/heads.csv]     # fifteen minutes on two cores

The backbone is the build's. Calls are timed in turns, in one process: the file without heads, with a float head, and
with the head's integers. Drift is that of the head's output against the float model, on the demo's evaluation
photographs, in the unit of its task; `head_sqnr_db` is what the head's integers alone cost, in the same file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.support.dpt import CHANNELS, bright_dpt
from benchmarks.support.rows import write_csv
from edgekit.artifact import Artifact, Format, Preprocess
from edgekit.backends import get_backend
from edgekit.backends.source import ExportSource
from edgekit.graph.heads import Head
from edgekit.graph.torch_emitter import run_with_heads
from edgekit.heads.classification import LinearClassifier
from edgekit.heads.depth import LinearDepth
from edgekit.heads.dpt import DptDepth
from edgekit.heads.own import OWN
from edgekit.heads.read import read_heads
from edgekit.heads.segmentation import LinearSegmenter
from edgekit.host import describe_host
from edgekit.images import load_set
from edgekit.measure.heads import measure_head_drift
from edgekit.models import zoo
from edgekit.models.config import ViTConfig
from edgekit.plan.quant import QuantPlan
from edgekit.precision import Variant
from edgekit.quantization.heads import quantize_heads, sqnr_db
from tests.support import official_heads as official

FILES: tuple[tuple[Format, Variant], ...] = (("onnx", "fused"), ("openvino", "fused"), ("tflite", "standard"))
SIZE, CALIBRATION, JUDGES, ROUNDS, GAP = 224, 32, 32, 20, 0.1
Row = dict[str, object]


def official_sizes(config: ViTConfig) -> dict[str, Head]:
    """The linear heads, with random weights in the sizes of the official ones."""
    width, last = config.width, config.depth - 1

    def state(module: nn.Module) -> dict[str, np.ndarray]:
        return {key: value.numpy() for key, value in official.randomised(module).state_dict().items()}

    return {
        "classifier, 1000 classes": LinearClassifier.from_state(state(official.Classifier(width, 1, 1000)), config),
        "segmentation, 150 classes": LinearSegmenter.from_state(state(official.Segmenter(width, 1, 150)), config),
        "linear depth, 256 bins": LinearDepth.from_state(
            state(official.LinearDepther(width, [last], 256, 10)), config, 10.0
        ),
    }


def rows_of(
    name: str, head: Head, source: ExportSource, images: tuple[np.ndarray, np.ndarray], threads: int, folder: Path
) -> Iterator[Row]:
    """One row for each file format."""
    calibration, judges = images
    heads = {"head": head}
    plan = quantize_heads(source.model, heads, calibration)
    exact = run_with_heads(source.model, heads, judges)["head"]
    sources = {
        "without": source,
        "float": replace(source, heads=heads),
        "int8": replace(source, heads=heads, head_plan=plan),
    }
    for format_, variant in FILES:
        backend = get_backend(format_)
        made = {
            kind: backend.export(given, "w8a8", variant, folder / kind / backend.filename("w8a8", variant))
            for kind, given in sources.items()
        }
        times = in_turns(made, judges[:1], threads)
        outputs = {kind: output_of(made[kind], judges, threads) for kind in ("float", "int8")}
        drifts = {kind: measure_head_drift("head", head.task, exact, found) for kind, found in outputs.items()}
        ratios = np.quantile(times["float"] / times["int8"], (0.25, 0.5, 0.75))
        measure = drifts["float"].measure
        yield {
            "head": name,
            "file": f"{format_}/w8a8" + "_fused" * (variant == "fused"),
            "threads": threads,
            **{f"{kind}_ms": f"{np.median(times[kind]):.1f}" for kind in sources},
            "float_over_int8": f"{ratios[1]:.2f}",
            "quartiles": f"{ratios[0]:.2f} to {ratios[2]:.2f}",
            "float_mb": made["float"].size_mb,
            "int8_mb": made["int8"].size_mb,
            "drift": f"{measure} {drifts['float'].unit}".strip(),
            "float_head": f"{drifts['float'].value.value:.4f}",
            "int8_head": f"{drifts['int8'].value.value:.4f}",
            "head_sqnr_db": f"{sqnr_db(*(torch.from_numpy(outputs[kind]) for kind in ('float', 'int8'))):.1f}",
            "int8_layers": sum(layer.input is not None for layer in plan.layers.values()),
            "int8_weights": len(plan.layers),
            "n": ROUNDS,
            "images": len(judges),
            "cpu": describe_host().cpu,
            "date": date.today(),
        }


def in_turns(files: Mapping[str, Artifact], pixels: np.ndarray, threads: int) -> dict[str, np.ndarray]:
    """Milliseconds of each round (ROUNDS,), with a pause for the other's threads to fall asleep."""
    runners = {kind: get_backend(file.format).runner(file, threads) for kind, file in files.items()}
    times: dict[str, list[float]] = {kind: [] for kind in runners}
    for turn in range(ROUNDS + 1):
        for kind, run in runners.items():
            time.sleep(GAP)
            start = time.perf_counter()
            run(pixels)
            if turn:  # the first is for warmth
                times[kind].append(1e3 * (time.perf_counter() - start))
    return {kind: np.array(values) for kind, values in times.items()}


def output_of(file: Artifact, images: np.ndarray, threads: int) -> np.ndarray:
    """What the head of a file makes of the images."""
    run = get_backend(file.format).runner(file, threads)
    return np.concatenate([run(image[None])["head"] for image in images])


def main() -> None:
    """Print and keep one row for each head and file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="build folder of the demo model, whose plan is used")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dpt", type=Path, help="where the fitted DPT head is kept, or was")
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    loaded = zoo.load("demo")
    model, transform = loaded.model.bake(SIZE, SIZE), Preprocess.for_size(SIZE, SIZE)
    source = ExportSource(
        model,
        transform,
        QuantPlan.load(arguments.out / "plan" / "int8.safetensors"),
        loaded.name,
        loaded.licence,
        loaded.sha256,
        "",
    )
    heads = official_sizes(model.config) | {
        f"DPT depth, {CHANNELS} channels": DptDepth.from_state(bright_dpt(loaded.model, arguments.dpt), model.config),
        "saliency": read_heads({"saliency": OWN}, loaded)["saliency"],
    }
    images = (
        load_set("demo", transform, samples=CALIBRATION, seed=0, split="calibration").pixel_values,
        load_set("demo", transform, samples=JUDGES, seed=0, split="evaluation").pixel_values,
    )
    rows = []
    for name, head in heads.items():
        with tempfile.TemporaryDirectory() as folder:
            for row in rows_of(name, head, source, images, arguments.threads, Path(folder)):
                print(*row.values(), sep="  ", flush=True)
                rows.append(row)
    write_csv(rows, arguments.csv)


if __name__ == "__main__":
    main()
