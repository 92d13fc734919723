"""A model of DINOv3's architecture from photographs to INT8: distilled, drifted in every format, and timed.

    python -m benchmarks.dinov3 distil WORK    # the demo ViT-S/14 into a ViT-S/16 with rotary positions
    python -m benchmarks.dinov3 drift WORK     # its build in all formats, judged on photographs that trained nothing
    python -m benchmarks.dinov3 speed WORK     # what rotary positions and SwiGLU cost in the fused op, random weights

Meta's weights cannot be fetched by a program: this student has their shape and the activations of a trained model. It
learns from the kinds of photographs that calibrate; other kinds and natural scenes judge. A killed run goes on.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch

from benchmarks.distillation import Progress
from benchmarks.one_process import times_of
from benchmarks.support import photos
from benchmarks.support.dinov3_folder import write_folder
from benchmarks.support.rows import write_csv
from edgekit.artifact import FORMATS
from edgekit.backends import get_backend
from edgekit.backends.source import ExportSource
from edgekit.distill.beginning import begin
from edgekit.distill.recipe import DistillRecipe
from edgekit.distill.student import StudentSpec
from edgekit.errors import EdgekitError
from edgekit.files import atomic_path
from edgekit.host import describe_host
from edgekit.images import ImageSet
from edgekit.images.demo import demo_crops
from edgekit.manifest import Manifest
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features, features_of
from edgekit.models import zoo
from edgekit.models.config import ARCHITECTURES, ViTConfig
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.pipeline import build
from edgekit.quantization.engine import quantize
from edgekit.recipe import QuantizeRecipe, Recipe
from edgekit.workflows.compare import artifacts_in
from edgekit.workflows.distill import Running, distil_folder

RESULTS = Path(__file__).parent / "results"
TEACHER, STUDENT = "demo", "dinov3_vits16"
TEACHER_SIDE, SIDE = 224, 256  # pixels: 16 x 16 patches of either
CROPS = 64  # of the demo's calibration photographs
CALIBRATION, JUDGES = 32, 24
PRECISIONS = ("fp32", "fp16", "w8", "w8a8", "w4a8", "w8a16")
FORWARD_BATCH = 4


def photographs(folder: Path) -> Path:
    """Images that the student learns from and plans are calibrated on: some kinds of stamps, and demo photographs."""
    if not folder.is_dir():
        with atomic_path(folder) as temporary:
            photos.prepare(temporary, categories=photos.CALIBRATION)
            (temporary / "demo").mkdir()
            for name, crop in demo_crops("calibration", CROPS):
                crop.save(temporary / "demo" / f"{name.replace('#', '-')}.png")
    return folder


def distil(arguments: argparse.Namespace) -> None:
    """Learn on small crops first, which are four times as many in the same time, then on those of the full size."""
    work: Path = arguments.work
    data = photographs(work / "photos")
    init, running = "teacher", Running("cpu", threads=arguments.threads, board="off")
    for side, steps, batch, rate in (
        (arguments.small, arguments.steps, 8, 1e-4),
        (TEACHER_SIDE, arguments.tune_steps, 8, 5e-5),
    ):
        if not steps:
            continue
        recipe = DistillRecipe(
            image_size=side,
            steps=steps,
            batch=batch,
            rate=rate,
            copies=1,
            image_weights="equal",
            held_out=0.08,
            judge_every=50,
            checkpoint_every=10,
        )
        out = work / f"distil-{side}"
        outcome = distil_folder(TEACHER, [f"arch={STUDENT},init={init}"], data, out, recipe, running, Progress())
        assert outcome is not None
        (row,) = outcome.distilled.graduates
        init = str((out / row.file).absolute())
    teacher = zoo.load(TEACHER)
    untaught = begin(StudentSpec.parse(STUDENT), teacher.model, side=TEACHER_SIDE, seed=0).model.eval()
    shutil.rmtree(work / STUDENT, ignore_errors=True)
    write_folder(untaught if init == "teacher" else zoo.load(init).model, work / STUDENT, licence=teacher.licence)
    training = f"{arguments.steps} steps of 8 at {arguments.small} px, {arguments.tune_steps} at {TEACHER_SIDE} px"
    rows = list(taught(zoo.load(work / STUDENT).model, training))
    for line in rows:
        print(*line.values(), sep="  ")
    write_csv(rows, RESULTS / "dinov3_student.csv")


def taught(student: VisionTransformer, training: str) -> Iterator[dict[str, object]]:
    """How near the teacher a student is before and after it has learned, on each kind of photographs."""
    teacher = zoo.load(TEACHER).model
    patches, start = (
        begin(StudentSpec.parse(words), teacher, side=TEACHER_SIDE, seed=0).model.eval()
        for words in ("patch=16", STUDENT)
    )
    baked, sets = teacher.bake(TEACHER_SIDE, TEACHER_SIDE), judges(student.config, SIDE)
    exact = {kind: _features(baked, images) for kind, images in judges(teacher.config, TEACHER_SIDE).items()}
    for name, model in (("teacher in patches of 16", patches), ("start", start), ("student", student)):
        for kind, images in sets.items():
            found = _features(model.bake(SIDE, SIDE), images)
            drift = measure_drift(exact[kind], found)
            yield {
                "model": name,
                "photos": kind,
                "n": drift.n,
                "cls_cosine": f"{drift.cls_cosine.mean:.4f}",
                "patch_cosine": f"{drift.patch_cosine.mean:.4f}",
                "centred_cls_cosine": f"{drift.centred_cls_cosine.mean:.4f}",
                "centred_patch_cosine": f"{drift.centred_patch_cosine.mean:.4f}",
                "training": training if model is student else "",
            }


def judges(config: ViTConfig, side: int, count: int = JUDGES) -> dict[str, ImageSet]:
    """Photographs of other kinds than the student has learned from, and natural scenes."""
    _, sets = photos.load(side, 1, count, config.preprocess(side, side))
    return {kind: images for kind, images in sets.items() if kind != "like"}


@torch.no_grad()
def _features(model: VisionTransformer, images: ImageSet) -> Features:
    """Class and patch tokens: registers are each model's own."""

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        tokens = model(torch.from_numpy(pixels))[0].numpy()
        return {"last_hidden_state": np.delete(tokens, np.s_[1 : model.config.prefix], axis=1)}

    return features_of(
        run, images.pixel_values, FORWARD_BATCH, patch=model.config.patch, names=images.paths, groups=images.groups
    )


def drift(arguments: argparse.Namespace) -> None:
    """Build the student's folder in every format, and judge each file on each kind of photographs."""
    work: Path = arguments.work
    model = arguments.model or str(work / STUDENT)
    others = work / "unlike"
    if not others.is_dir():
        with atomic_path(others) as temporary:
            photos.prepare(temporary)
            for category in photos.CALIBRATION:
                shutil.rmtree(temporary / category)
    recipe = Recipe.make(
        {
            "model": model,
            "image_size": [(arguments.side, arguments.side)],
            "formats": arguments.format.split(","),
            "precisions": arguments.precision.split(","),
            "calibration": {"source": str(photographs(work / "photos")), "samples": arguments.samples},
            "evaluation": str(others),
            "evaluation_samples": arguments.judges,
        }
    )
    out = arguments.out or work / "build"
    build(recipe, out, measure="drift", watcher=Progress())
    rows = list(drifted(out, zoo.load(model).model, arguments.side, arguments.judges))
    write_csv(rows, arguments.csv)


def drifted(out: Path, model: VisionTransformer, side: int, count: int) -> Iterator[dict[str, object]]:
    """A row per file of a build: SQNR of all tokens and class cosine against torch in float32."""
    baked = model.bake(side, side)
    sets = judges(model.config, side, count)
    exact = {kind: _whole(baked, images) for kind, images in sets.items()}
    artifacts = {artifact.name: artifact for artifact in artifacts_in(out)}
    cpu = describe_host().cpu
    for row in Manifest.read(out).artifacts:
        line: dict[str, object] = {"artifact": row.name, "size_mb": row.size_mb}
        for kind, images in sets.items():
            cells = dict.fromkeys((f"{kind}_sqnr_db", f"{kind}_interval", f"{kind}_cls_cosine"), "")
            try:
                if row.status != "ok":
                    raise EdgekitError(row.reason)
                run = get_backend(row.format).runner(artifacts[row.name])
                found = features_of(
                    run, images.pixel_values, 1, patch=model.config.patch, names=images.paths, groups=images.groups
                )
                seen = measure_drift(exact[kind], found)
                low, high = seen.sqnr_db.low, seen.sqnr_db.high
                cells = {
                    f"{kind}_sqnr_db": f"{seen.sqnr_db.value:.1f}",
                    f"{kind}_interval": f"{low:.1f} to {high:.1f}",
                    f"{kind}_cls_cosine": f"{seen.cls_cosine.mean:.6f}",
                }
            except EdgekitError as error:
                line["reason"] = error.what
            line |= cells
        line |= {"pixels": side, "n": count, "cpu": cpu, "date": date.today(), "reason": line.get("reason", "")}
        print(*line.values(), sep="  ", flush=True)
        yield line


@torch.no_grad()
def _whole(model: VisionTransformer, images: ImageSet) -> Features:
    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return {"last_hidden_state": model(torch.from_numpy(pixels))[0].numpy()}

    return features_of(
        run, images.pixel_values, FORWARD_BATCH, patch=model.config.patch, names=images.paths, groups=images.groups
    )


# A model, the side of its images, and the one that it is compared with. The third does the multiplications of the gated
# MLP in a plain one: what is left of the difference is SwiGLU's.
TIMED = {
    "DINOv2 S/14, registers": (ARCHITECTURES["dinov2_vits14_reg"], 224, ""),
    "DINOv3 S/16": (ARCHITECTURES["dinov3_vits16"], 256, "DINOv2 S/14, registers"),
    "DINOv3 S/16, MLP of 2304": (replace(ARCHITECTURES["dinov3_vits16"], hidden=2304), 256, ""),
    "DINOv3 S+/16": (ARCHITECTURES["dinov3_vits16plus"], 256, "DINOv3 S/16, MLP of 2304"),
}


def speed(arguments: argparse.Namespace) -> None:
    """Times of w8a8_fused in turns: 261 tokens everywhere, so that what differs is the architecture's."""
    import onnxruntime

    files = {name: _fused(config, side, arguments.work / "speed") for name, (config, side, _) in TIMED.items()}
    host, rows = describe_host(), []
    for threads in map(int, arguments.threads_timed.split(",")):
        times = times_of(files, threads, arguments.rounds)
        for name, (config, side, other) in TIMED.items():
            cost = ""
            if other:
                low, middle, high = (100 * (np.percentile(times[name] / times[other], (25, 50, 75)) - 1)).tolist()
                cost = f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"
            rows.append(
                {
                    "cpu": host.cpu,
                    "model": name,
                    "pixels": side,
                    "tokens": config.tokens(side, side),
                    "threads": threads,
                    "median_ms": f"{np.median(times[name]):.1f}",
                    "min_ms": f"{times[name].min():.1f}",
                    "compared_with": other,
                    "cost": cost,
                    "n": times[name].size,
                    "onnxruntime": onnxruntime.__version__,
                    "date": date.today(),
                }
            )
            print(*rows[-1].values(), sep="  ", flush=True)
    write_csv(rows, arguments.csv)


def _fused(config: ViTConfig, side: int, folder: Path) -> Path:
    """The fused INT8 file of random weights, with the quickest plan: times do not depend on it."""
    backend = get_backend("onnx")
    path = folder / f"{config.arch}-{config.ffn_hidden}" / backend.filename("w8a8", "fused")
    if path.exists():
        return path
    model = random_model(config).bake(side, side)
    pixels = np.random.default_rng(0).standard_normal((4, 3, side, side), np.float32)
    quick = QuantizeRecipe(smooth="off", fc2_scale="off", rounding="rtn", activation_range="minmax", synthetic=False)
    source = ExportSource(
        model=model,
        preprocess=config.preprocess(side, side),
        plan=quantize(model, pixels, quick),
        model_name=config.arch,
        licence="",
        parent_sha256="0" * 64,
        recipe_digest="benchmark",
    )
    backend.export(source, "w8a8", "fused", path)
    return path


def main() -> None:
    """Run one of the three parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("distil")
    part.add_argument("work", type=Path, help="photographs, runs and the student's folder are kept here")
    part.add_argument("--steps", type=int, default=2000, help="of 8 small crops; 0 leaves it out")
    part.add_argument("--small", type=int, default=112, help="side of small crops as the teacher sees them")
    part.add_argument("--tune-steps", type=int, default=100, help="of 8 crops of 224 pixels; 0 leaves it out")
    part.add_argument("--threads", type=int, default=1)
    part.set_defaults(run=distil)
    part = parts.add_parser("drift")
    part.add_argument("work", type=Path)
    part.add_argument("--model", default="", help="instead of the student of `distil`")
    part.add_argument("--side", type=int, default=SIDE, help="of the images")
    part.add_argument("--out", type=Path, help="the build folder, WORK/build by default")
    part.add_argument("--samples", type=int, default=CALIBRATION, help="photographs that calibrate")
    part.add_argument("--judges", type=int, default=JUDGES, help="photographs of each kind that judge")
    part.add_argument("--format", default=",".join(FORMATS))
    part.add_argument("--precision", default=",".join(PRECISIONS))
    part.add_argument("--csv", type=Path, default=RESULTS / "dinov3.csv")
    part.set_defaults(run=drift)
    part = parts.add_parser("speed")
    part.add_argument("work", type=Path)
    part.add_argument("--threads", dest="threads_timed", default="1", help="numbers of threads, with commas")
    part.add_argument("--rounds", type=int, default=25)
    part.add_argument("--csv", type=Path, default=RESULTS / "dinov3_speed.csv")
    part.set_defaults(run=speed)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
