"""A student of half the depth before and after distillation, judged on other kinds of photographs than it learned from.

    python -m benchmarks.distillation WORK [--seeds 2] [--steps 80] [--image-size 84] [--precision bfloat16]
    python -m benchmarks.distillation WORK --only 1     # trains that seed and stops: seeds in parallel, then as above

Students learn from eight kinds of photographs. Seven other kinds, whose names are classes for k-NN, and natural scenes
judge at 112 pixels: the students, their mean, and the graduate, which was chosen on held-out photographs of the eight.
A run that was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.support import photos
from benchmarks.support.rows import write_csv
from edgekit.artifact import Preprocess
from edgekit.distill.beginning import begin
from edgekit.distill.recipe import DistillRecipe
from edgekit.distill.student import StudentSpec
from edgekit.files import atomic_path
from edgekit.images import ImageSet, load_set
from edgekit.measure.accuracy import AccuracyJudge
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features, features_of
from edgekit.models import zoo
from edgekit.models.vit import VisionTransformer
from edgekit.pipeline.watch import Silent
from edgekit.workflows.distill import Distilled, Running, distil_folder

RESULTS = Path(__file__).parent / "results" / "distillation.csv"
STUDENT = "depth=6"
JUDGES = frozenset({"food", "plants", "town", "vehicles", "space", "sports", "military"})
SCENES = 32
SIDE = 112  # pixels at which students are judged


class Cost(NamedTuple):
    """Minutes of a run: by the clock, and of all cores together."""

    minutes: float
    cpu_minutes: float


@torch.no_grad()
def seen_by(model: VisionTransformer, images: ImageSet) -> Features:
    """Features of a set."""
    baked = model.bake(SIDE, SIDE)
    return features_of(
        lambda pixels: {"last_hidden_state": baked(torch.from_numpy(pixels))[0].numpy()},
        images.pixel_values,
        8,
        patch=baked.config.patch,
    )


class Progress(Silent):
    """Says how far a run is."""

    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        if total and done % 10 == 0:
            print(f"{name}  {done}/{total}", flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)


def recipe_of(arguments: argparse.Namespace, seed: int) -> DistillRecipe:
    """The settings of a seed's run."""
    return DistillRecipe(
        image_size=arguments.image_size,
        steps=arguments.steps,
        batch=arguments.batch,
        copies=arguments.copies,
        precision=arguments.precision,
        seed=seed,
        judge_every=40,
        checkpoint_every=20,
        blockwise=arguments.blockwise,
    )


def distil(data: Path, out: Path, recipe: DistillRecipe, threads: int) -> tuple[Distilled, Cost | None]:
    """One run and what it cost, as noted beside it; None when it was killed in between."""
    note = out.with_suffix(".json")
    wall, cpu = time.monotonic(), _cpu_seconds()
    outcome = distil_folder(
        "demo", [STUDENT], data, out, recipe, Running("cpu", threads=threads, keep="all"), Progress()
    )
    assert outcome is not None
    if outcome.fate == "new":
        cost = Cost((time.monotonic() - wall) / 60, (_cpu_seconds() - cpu) / 60)
        note.write_text(json.dumps(cost), encoding="utf-8")
    found = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
    return outcome.distilled, found and Cost(*found)


def judged(
    name: str, model: VisionTransformer, sets: dict[str, ImageSet], exact: dict[str, Features], judge: AccuracyJudge
) -> Iterator[dict[str, object]]:
    """A row per kind of photographs; k-NN where they have labels."""
    for kind, images in sets.items():
        seen = seen_by(model, images)
        drift = measure_drift(exact[kind], seen)
        knn = {each.title: each.candidate.value for each in judge.measure(seen)} if images.labels else {}
        centred = drift.centred_cls_cosine
        yield {
            "model": name,
            "photos": kind,
            "n": drift.n,
            "cls_cosine": round(drift.cls_cosine.mean, 4),
            "patch_cosine": round(drift.patch_cosine.mean, 4),
            "centred_cls_cosine": round(centred.mean, 4),
            "centred_patch_cosine": round(drift.centred_patch_cosine.mean, 4),
            "knn10": round(knn["k-NN (10)"], 4) if knn else "",
            "knn20_in_teachers_gallery": round(knn["k-NN (20), FP32 gallery"], 4) if knn else "",
        }


def mean_of(parts: list[list[dict[str, object]]]) -> list[dict[str, object]]:
    """Rows of several students averaged, number by number."""
    return [
        {
            key: value if isinstance(value, (str, int)) else round(float(np.mean([row[key] for row in rows])), 4)
            for key, value in rows[0].items()
        }
        | {"model": "mean of the students"}
        for rows in zip(*parts, strict=True)
    ]


def main() -> None:
    """All seeds; the table is written anew after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--copies", type=int, default=2, help="students per seed")
    parser.add_argument("--only", type=int, metavar="SEED", help="train one seed, judge nothing")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--blockwise", type=float, default=1.0, help="share of the steps that teach blocks one by one")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=84, help="of the crops they learn from")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="while they learn")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    data = arguments.work / "photos"
    if not data.is_dir():
        with atomic_path(data) as folder:
            photos.prepare(folder)
            for kind in JUDGES:
                shutil.rmtree(folder / kind)
    if arguments.only is not None:
        distil(data, arguments.work / f"seed{arguments.only}", recipe_of(arguments, arguments.only), arguments.threads)
        return
    others = arguments.work / "judges"
    if not others.is_dir():
        photos.prepare(others, categories=JUDGES)
    transform = Preprocess.for_size(SIDE, SIDE)
    sets = {
        "other kinds": load_set(others, transform, samples=None),
        "natural scenes": load_set("demo", transform, samples=SCENES, seed=1, split="evaluation"),
    }
    teacher = zoo.load("demo").model
    exact = {kind: seen_by(teacher, images) for kind, images in sets.items()}
    labels = sets["other kinds"].labels
    assert labels is not None
    judge = AccuracyJudge(exact["other kinds"], labels)
    start = begin(StudentSpec.parse(STUDENT), teacher, side=SIDE, seed=0).model
    rows: list[dict[str, object]] = []
    for name, model in (("teacher", teacher), ("start", start)):
        rows += [{"seed": "", **row} for row in judged(name, model, sets, exact, judge)]
    for seed in range(arguments.seeds):
        recipe = recipe_of(arguments, seed)
        out = arguments.work / f"seed{seed}"
        done, cost = distil(data, out, recipe, arguments.threads)
        (row,) = done.graduates
        graduated = row.kind.replace(" ", "_")
        files = [
            path
            for path in sorted((out / "members" / row.name).iterdir())
            if path.stem == graduated or path.stem.startswith("student")
        ]
        parts = {
            path.stem: list(judged(path.stem.replace("_", " "), zoo.load(path).model, sets, exact, judge))
            for path in files
        }
        students = [part for name, part in parts.items() if name.startswith("student")]
        graduate = [part | {"model": f"graduate ({row.kind})"} for part in parts[graduated]]
        minutes = {name: round(getattr(cost, name), 1) if cost else "" for name in Cost._fields}
        training = f"{recipe.steps} steps of {recipe.batch} at {recipe.image_size} px, {recipe.precision}"
        how = {"training": training, **minutes}
        rows += [{"seed": seed, **part, **how} for each in (*students, mean_of(students), graduate) for part in each]
        for line in rows:
            for key in how:
                line.setdefault(key, "")
        write_csv(rows, RESULTS)
    for line in rows:
        print(*line.values(), sep="  ")


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
