"""Drift of every way to quantize one DINOv2, ours and the common tools', on the same weights and photographs.

    python -m benchmarks.quantization                  # at 224 px; a few minutes per size
    python -m benchmarks.quantization --image-size 518 --samples 16

Calibration: photographs of one kind. Judged on other photographs of that kind ("like") and on another kind ("unlike").
Everything is run in its runtime; "simulator" rows are the plan's own integer arithmetic with a range per token.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.support import photos
from benchmarks.support.peers import PEERS, Run, load_onnxruntime
from benchmarks.support.rows import keep_row
from edgekit.artifact import Artifact, Preprocess
from edgekit.backends import get_backend
from edgekit.backends.source import ExportSource
from edgekit.host import describe_host
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features, features_of
from edgekit.models import zoo
from edgekit.pipeline.plans import quantize_recipe
from edgekit.precision import Precision
from edgekit.recipe import QuantizeRecipe

RESULTS = Path(__file__).parent / "results" / "quantization.csv"
KEY = ("model", "image_size", "engine", "level", "photos")  # of two rows with these the newer stays

Row = tuple[str, str, Callable[[], Run]]  # engine, level, makes the quantized model


class Bench:
    """One model at one size with its calibration pixels."""

    def __init__(self, name: str, side: int, calibration: np.ndarray, folder: Path) -> None:
        self.loaded = zoo.load(name)
        self.model = self.loaded.model.bake(side, side)
        self.side, self.calibration, self.folder = side, calibration, folder
        self.plans: dict[str, object] = {}

    def plan(self, recipe: QuantizeRecipe):
        from edgekit.quantization.engine import quantize

        key = recipe.model_dump_json()
        if key not in self.plans:
            self.plans[key] = quantize(self.model, self.calibration, recipe)
        return self.plans[key]

    def source(self, recipe: QuantizeRecipe | None) -> ExportSource:
        return ExportSource(
            model=self.model,
            preprocess=Preprocess.for_size(self.side, self.side),
            plan=None if recipe is None else self.plan(recipe),
            model_name=self.loaded.name,
            licence=self.loaded.licence,
            parent_sha256=self.loaded.sha256,
            recipe_digest="benchmark",
        )

    def exported(self, format_: str, precision: Precision, recipe: QuantizeRecipe | None) -> Artifact:
        backend = get_backend(format_)
        name = f"{format_}-{recipe.level if recipe else ''}-{precision}"
        path = self.folder / name / backend.filename(precision, "standard")
        if path.exists():
            return backend.read(path)
        return backend.export(self.source(recipe), precision, "standard", path)

    def ours(self, precision: Precision, recipe: QuantizeRecipe, format_: str = "onnx") -> Run:
        return get_backend(format_).runner(self.exported(format_, precision, recipe))

    def simulator(self, recipe: QuantizeRecipe, *, per_token: bool) -> Run:
        import torch

        from edgekit.quantization.simulate import simulate

        module = simulate(self.plan(recipe), per_token=per_token, kernel="float32")

        @torch.no_grad()
        def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
            return {"last_hidden_state": module(torch.from_numpy(pixels))[0].numpy()}

        return run

    def peer(self, name: str) -> Run:
        """Another tool's file, in its runtime."""
        peer = next(peer for peer in PEERS if peer.name == name)
        source = self.exported("onnx", "fp32", None)
        target = peer.target(source, peer.prepare(source, self.calibration, self.folder), self.loaded.name)
        return load_onnxruntime(target.argument, None)

    def nncf(self, **options: object) -> Run:
        from edgekit.backends.openvino.nncf import NncfOptions, nncf_quantize

        source = self.exported("openvino", "fp32", None)
        path = self.folder / f"nncf-{abs(hash(tuple(options.items())))}.xml"
        artifact = nncf_quantize(source, self.calibration, path, NncfOptions(**options))  # type: ignore[arg-type]
        return get_backend("openvino").runner(artifact)

    def rows(self) -> Iterator[Row]:
        default, everything = QuantizeRecipe(), QuantizeRecipe(level="all")
        four = quantize_recipe(default, "int4")
        seven = QuantizeRecipe(overflow="reduce-range")
        yield "edgekit ONNX w8a8, ONNX Runtime", "linears", lambda: self.ours("w8a8", default)
        yield "edgekit OpenVINO w8a8, OpenVINO", "linears", lambda: self.ours("w8a8", default, "openvino")
        yield "edgekit TFLite w8a8, LiteRT", "linears", lambda: self.ours("w8a8", default, "tflite")
        yield "edgekit Core ML w8a8, interpreted", "linears", lambda: self.ours("w8a8", default, "coreml")
        yield "edgekit plan, simulator, per token", "linears", lambda: self.simulator(default, per_token=True)
        yield "edgekit ONNX w8a8, ONNX Runtime", "all", lambda: self.ours("w8a8", everything)
        yield (
            "edgekit plan, simulator, per token, 7-bit weights",
            "linears",
            lambda: self.simulator(seven, per_token=True),
        )
        yield "edgekit plan, simulator, per token", "all", lambda: self.simulator(everything, per_token=True)
        yield "edgekit ONNX w4a8, ONNX Runtime", "linears", lambda: self.ours("w4a8", four)
        yield "ONNX Runtime quantize_static", "all", lambda: self.peer("onnx/ort_static")
        yield "ONNX Runtime quantize_dynamic", "linears", lambda: self.peer("onnx/ort_dynamic")
        yield (
            "NNCF, SmoothQuant and bias correction off",
            "all",
            lambda: self.nncf(smooth_quant_alpha=-1.0, bias_correction="off"),
        )
        yield "NNCF, TRANSFORMER", "all", self.nncf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--samples", type=int, default=64, help="calibration images")
    parser.add_argument("--judges", type=int, default=32, help="images of each kind that judge")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--level", default="", choices=("", "linears", "all"), help="rows of that level")
    parser.add_argument("--csv", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    calibration, judges = photos.load(arguments.image_size, arguments.samples, arguments.judges)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(arguments.model, arguments.image_size, calibration.pixel_values, Path(temporary))
        measure(bench, judges, (arguments.only, arguments.level), arguments.csv)


def measure(bench: Bench, judges: dict, only: tuple[str, str], path: Path) -> None:
    """Run every row on every kind of photograph; each row is written when it is done."""
    import torch

    @torch.no_grad()
    def reference(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {"last_hidden_state": bench.model(torch.from_numpy(pixels))[0].numpy()}

    exact = {kind: _features(reference, images) for kind, images in judges.items()}
    host = describe_host()
    versions = " ".join(f"{k}={v}" for k, v in host.packages.items())
    for engine, level, make in bench.rows():
        if only[0] not in engine or only[1] not in level:
            continue
        start = time.monotonic()
        run = make()
        seconds = time.monotonic() - start
        for kind, images in judges.items():
            drift = measure_drift(exact[kind], _features(run, images))
            row = {
                "model": bench.loaded.name,
                "image_size": bench.side,
                "calibration_images": len(bench.calibration),
                "engine": engine,
                "level": level,
                "photos": kind,
                "n": drift.n,
                "cls_cosine": f"{drift.cls_cosine.mean:.5f}",
                "cls_cosine_min": f"{drift.cls_cosine.min:.5f}",
                "patch_cosine": f"{drift.patch_cosine.mean:.5f}",
                "sqnr_db": f"{drift.sqnr_db.value:.2f}",
                "sqnr_low_db": f"{drift.sqnr_db.low:.2f}",
                "sqnr_high_db": f"{drift.sqnr_db.high:.2f}",
                "same_neighbour": drift.own.nn_agreement.value,
                "seconds": f"{seconds:.0f}",
                "cpu": host.cpu,
                "vnni": int(any("vnni" in flag for flag in host.isa)),
                "versions": versions,
                "date": date.today(),
            }
            print(
                *(row[c] for c in ("engine", "level", "photos", "cls_cosine", "sqnr_db", "seconds")),
                sep="  ",
                flush=True,
            )
            keep_row(row, path, KEY)


def _features(run: Run, images) -> Features:
    return features_of(run, images.pixel_values, 8, patch=images.preprocess.patch, names=images.paths)


if __name__ == "__main__":
    main()
