"""Every format beside the simulator of the plan it was written from: drift, agreement, size, seconds to write.

    edgekit build --model demo --format onnx,openvino,coreml,tflite --precision fp32,fp16,w8,w8a8 --out OUT
    python -m benchmarks.support.photos photos                   # photographs unlike those that OUT was calibrated on
    python -m benchmarks.formats OUT --eval photos [--csv benchmarks/results/formats.csv]

Each artifact is exported again: that shows what the export takes, and that it gives the bytes of the build's file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.support.rows import write_csv
from edgekit.artifact import Artifact
from edgekit.backends import get_backend
from edgekit.backends.fused import as_fused
from edgekit.backends.placement import placement
from edgekit.errors import EdgekitError
from edgekit.host import describe_host
from edgekit.images import load_set
from edgekit.manifest import Manifest
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features, features_of
from edgekit.models.vit import VisionTransformer
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.jobs import Job, exporter_of, jobs_of
from edgekit.pipeline.plans import PlanKind
from edgekit.pipeline.watch import Silent
from edgekit.plan.quant import QuantPlan
from edgekit.precision import Variant
from edgekit.quantization.simulate import simulate
from edgekit.recipe import Recipe


def measure(build: Path, images: str, samples: int) -> Iterator[dict[str, object]]:
    """One row per artifact of the build's main size that our own engine made."""
    manifest = Manifest.read(build)
    recipe = Recipe.make(manifest.recipe)
    context = BuildContext.load(recipe, build, Silent())
    size = recipe.main_size
    pixels = load_set(images, context.inputs.preprocess(size), samples=samples, seed=1, split="evaluation").pixel_values
    exact = _features(context.inputs.model(size), pixels)
    if (saved := build / "plan" / "int8.safetensors").exists():
        yield _floor(QuantPlan.load(saved), pixels, exact)
    oracles: dict[tuple[PlanKind, Variant], Features] = {}
    rows = {row.name: row for row in manifest.artifacts if row.status == "ok"}
    for job in jobs_of(recipe):
        if job.name not in rows or job.size != size or job.engine != "edgekit" or job.input != "pixel_values":
            continue
        source = context.source(job)
        kind = context.plans.kind(job), job.variant
        planned = job.variant != "dynamic"  # whose ranges, taken at run time, the simulator does not know
        if source.plan is not None and planned and kind not in oracles:
            oracles[kind] = _features(_oracle(source.plan, job), pixels)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            path = Path(folder) / Path(job.path).name
            artifact = exporter_of(job, recipe).export(source, job.precision, job.variant, path)
            seconds = time.perf_counter() - start
            yield {
                "artifact": job.name,
                "size_mb": artifact.size_mb,
                "export_s": round(seconds, 1),
                "same_bytes": artifact.sha256 == rows[job.name].sha256,
                **_compared(artifact, pixels, exact, oracles.get(kind) if planned else None),
            }


def _floor(plan: QuantPlan, pixels: np.ndarray, exact: Features) -> dict[str, object]:
    """The simulator beside itself, each pixel one float32 step away: no runtime agrees better, whatever it does.

    Values between two integers fall to either side, and every layer behind spreads that.
    """
    oracle = simulate(plan)
    ends = np.random.default_rng(0).choice(np.array([-np.inf, np.inf], np.float32), pixels.shape)
    away = np.nextafter(pixels, ends)  # in float32, as both are
    drift, agreement = (measure_drift(a, _features(oracle, away)) for a in (exact, _features(oracle, pixels)))
    return {
        "artifact": "the plan's simulator, pixels one float32 step away",
        "size_mb": "",
        "export_s": "",
        "same_bytes": "",
        "cls_cosine": f"{drift.cls_cosine.mean:.6f}",
        "sqnr_db": f"{drift.sqnr_db.value:.1f}",
        "simulator_cls_cosine": f"{agreement.cls_cosine.mean:.6f}",
        "simulator_sqnr_db": f"{agreement.sqnr_db.value:.1f}",
        "placement": "",
    }


def _oracle(plan: QuantPlan, job: Job) -> VisionTransformer:
    """What the plan says; ONNX Runtime and XNNPACK quantize the inputs of 4-bit GEMMs in their own way."""
    return simulate(plan if job.variant == "standard" else as_fused(plan))


def _compared(artifact: Artifact, pixels: np.ndarray, exact: Features, oracle: Features | None) -> dict[str, object]:
    """Drift against torch in FP32 and against the simulator; empty where the artifact does not run or has none."""
    backend = get_backend(artifact.format)
    try:
        found = features_of(backend.runner(artifact), pixels, patch=artifact.preprocess.patch)
        runs = placement(backend.audit(artifact))
    except EdgekitError as error:
        return dict.fromkeys(("cls_cosine", "sqnr_db", "simulator_cls_cosine", "simulator_sqnr_db"), "") | {
            "placement": str(error)
        }
    drift, agreement = measure_drift(exact, found), oracle and measure_drift(oracle, found)
    return {
        "cls_cosine": f"{drift.cls_cosine.mean:.6f}",
        "sqnr_db": f"{drift.sqnr_db.value:.1f}",
        "simulator_cls_cosine": f"{agreement.cls_cosine.mean:.6f}" if agreement else "",
        "simulator_sqnr_db": f"{agreement.sqnr_db.value:.1f}" if agreement else "",
        "placement": runs,
    }


@torch.no_grad()
def _features(model: VisionTransformer, pixels: np.ndarray) -> Features:
    def run(x: np.ndarray) -> dict[str, np.ndarray]:
        return {"last_hidden_state": model(torch.from_numpy(x))[0].numpy()}

    return features_of(run, pixels, patch=model.config.patch)  # type: ignore[arg-type]


def main() -> None:
    """Print the table; write it as CSV when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--eval", default="demo", help="folder of photographs, or `demo`")
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    host, rows = describe_host(), []
    for row in measure(arguments.build, arguments.eval, arguments.samples):
        rows.append({"cpu": host.cpu, "images": arguments.samples, **row})
        print(*(f"{value:>22}" if key == "artifact" else value for key, value in row.items()), sep="  ", flush=True)
    write_csv(rows, arguments.csv)


if __name__ == "__main__":
    main()
