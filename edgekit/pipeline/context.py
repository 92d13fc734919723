"""What the artifacts of one build share, each made on first use: images, baked models, plans, reference features."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from edgekit import __version__
from edgekit.artifact import Artifact, ArtifactRow, Preprocess
from edgekit.backends import get_backend
from edgekit.backends.base import ExportSource
from edgekit.errors import DataError
from edgekit.files import sealed, sha256_of
from edgekit.heads.own import own_heads, own_kind, remarks, wanted_heads
from edgekit.heads.read import read_heads
from edgekit.images.folder import ImageFolder
from edgekit.images.sets import ImageSet, load_set
from edgekit.measure.accuracy import AccuracyJudge
from edgekit.measure.features import Features, features_of
from edgekit.pipeline.jobs import Job, Size
from edgekit.pipeline.plans import PlanKind, inputs_of, kind_of, main_plan, plan_file, quantize_recipe
from edgekit.pipeline.records import digest_of
from edgekit.pipeline.watch import Watcher
from edgekit.plan.heads import ENGINE as HEAD_ENGINE
from edgekit.plan.heads import HeadPlan
from edgekit.plan.quant import QuantPlan
from edgekit.precision import FACTS
from edgekit.quantization.checkpoint import ENGINE
from edgekit.quantization.explanation import FILE as EXPLAINED
from edgekit.recipe import Recipe

if TYPE_CHECKING:
    from edgekit.models.vit import DinoV2
    from edgekit.models.zoo import LoadedModel

_BATCH = 8

P = TypeVar("P", QuantPlan, HeadPlan)


class Materials:
    """Lazily made inputs of one build; nothing here is made twice."""

    def __init__(self, recipe: Recipe, loaded: LoadedModel, out: Path, watcher: Watcher) -> None:
        self.recipe, self.loaded, self.out, self._watcher = recipe, loaded, out, watcher
        for size in recipe.image_size:
            self.preprocess(size)  # refuses what the model cannot take
        self._samples = samples_that_fit(recipe)
        self.wanted = wanted_heads(recipe.heads, recipe.own_heads, loaded)
        self.heads = read_heads(self.wanted, loaded)
        self.remarks = tuple(remarks(self.wanted, loaded))
        for line in self.remarks:
            watcher.note(line)
        self.calibration = cache(self._calibration)
        self.evaluation = cache(self._evaluation)
        self.model = cache(self._model)
        self.plan = cache(self._plan)
        self.head_plan = cache(self._head_plan)
        self.reference = cache(self._reference)
        self.judge = cache(self._judge)

    def preprocess(self, size: Size) -> Preprocess:
        """How images become input of this size."""
        return self.loaded.model.config.preprocess(*size, normalize=self.recipe.normalize)

    def source(self, job: Job) -> ExportSource:
        """What a backend needs to export a job; its plan is made now if it is written from one."""
        plan = self.plan(job.size, self.plan_kind(job)) if job.integer else None
        integer_only = job.precision in get_backend(job.format).integer_only
        return ExportSource(
            model=self.model(job.size),
            preprocess=self.preprocess(job.size),
            plan=plan,
            model_name=self.loaded.name,
            licence=self.loaded.licence,
            parent_sha256=self.loaded.sha256,
            recipe_digest=self.recipe.digest,
            overflow=self.recipe.quantize.overflow,
            heads=self.heads,
            head_plan=self._head_plan_of(job),
            calibration=self.calibration(job.size).pixel_values if integer_only else None,
        )

    def artifact_of(self, row: ArtifactRow) -> Artifact:
        """The artifact that a row of this build describes."""
        return row.to_artifact(self.out, recipe_digest=self.recipe.digest, parent_sha256=self.loaded.sha256)

    def heads_key(self) -> dict[str, str]:
        """Digest of each head's file; of one that the checkpoint brings what it is taken as."""
        own = own_heads(self.loaded)
        keys = {}
        for name, source in self.wanted.items():
            if own_kind(source) is None:
                keys[name] = sha256_of(Path(source))
            else:
                keys[name] = f"{source} {own[name].title}" if own[name].kinds else source
        return keys

    def mend_plans(self, job: Job) -> None:
        """Make the plans of an artifact that is kept anew where they are damaged or gone: `edgekit explain` reads them.

        They are compared with the digests beside them, not loaded.
        """
        if job.integer and sealed(self.plan_path(job.size, self.plan_kind(job))):
            self.plan(job.size, self.plan_kind(job))
        if self.has_head_plan(job) and sealed(self.plan_path(job.size, "heads")):
            self.head_plan(job.size)

    def has_head_plan(self, job: Job) -> bool:
        """Whether heads have integers in an artifact; one of integers throughout has no heads."""
        with_heads = bool(self.heads) and job.precision not in get_backend(job.format).integer_only
        return job.integer and with_heads and self.recipe.head_precision == "int8"

    def head_plan_key(self, size: Size) -> str:
        """Digest of all that decides the integers of heads."""
        return digest_of(
            parent=self.loaded.sha256,
            size=size,
            normalize=self.recipe.normalize,
            heads=self.heads_key(),
            bits=self._head_bits,
            calibration=self.calibration(size).digest,
            edgekit=__version__,
            engine=HEAD_ENGINE,
        )

    @property
    def _head_bits(self) -> float:
        return quantize_recipe(self.recipe.quantize, "int8").bits

    def plan_kind(self, job: Job) -> PlanKind:
        """The plan that an integer artifact is written from."""
        return kind_of(job, self.recipe.quantize)

    def plan_key(self, size: Size, kind: PlanKind) -> str:
        """Digest of all that decides a plan."""
        return digest_of(
            parent=self.loaded.sha256,
            size=size,
            normalize=self.recipe.normalize,
            seed=self.recipe.seed,
            quantize=quantize_recipe(self.recipe.quantize, kind).model_dump(mode="json"),
            inputs=inputs_of(kind),
            calibration=self.calibration(size).digest,
            edgekit=__version__,
            engine=ENGINE,
        )

    def plan_path(self, size: Size, kind: PlanKind | Literal["heads"]) -> Path:
        """OUT/plan/<kind>.safetensors, with the size unless it is the main one."""
        return self.out / plan_file(kind, size, self.recipe.image_size[0])

    def _calibration(self, size: Size) -> ImageSet:
        return load_set(
            self.recipe.calibration.source,
            self.preprocess(size),
            samples=self._samples[0],
            seed=self.recipe.seed,
            split="calibration",
            progress=lambda done, total: self._watcher.stage("calibration images", done, total),
        )

    def _evaluation(self, size: Size) -> ImageSet:
        images = load_set(
            self.recipe.evaluation,
            self.preprocess(size),
            samples=self._samples[1],
            seed=self.recipe.seed,
            split="evaluation",
            disjoint_from=self.calibration(size),
            progress=lambda done, total: self._watcher.stage("evaluation images", done, total),
        )
        seen = {image.tobytes() for image in self.calibration(size).pixel_values}
        if known := sum(image.tobytes() in seen for image in images.pixel_values):
            self._watcher.note(f"{known} of {len(images)} evaluation images were calibrated on: the drift flatters")
        return images

    def _model(self, size: Size) -> DinoV2:
        """Baked for one size, with the normalisation folded in when the recipe wants it in the graph."""
        from edgekit.surgery.fold_normalization import fold_normalization

        model = self.loaded.model.bake(*size)
        transform = self.preprocess(size)
        if transform.normalize == "graph":
            fold_normalization(model, transform.mean, transform.std)
        return model

    def _plan(self, size: Size, kind: PlanKind) -> QuantPlan:
        """The plan that all formats write out: read from the build folder when it is there, else made and saved."""
        from edgekit.quantization.engine import quantize

        key, path = self.plan_key(size, kind), self.plan_path(size, kind)
        if kept := self._kept(QuantPlan, path, key):
            return kept
        what_for = kind.replace("_", " ")
        blocks = path.with_name(f".{path.stem}-{key}")  # where a killed run left off
        plan = quantize(
            self.model(size),
            self.calibration(size).pixel_values,
            quantize_recipe(self.recipe.quantize, kind),
            inputs=inputs_of(kind),
            cache=blocks,
            progress=lambda what, done, total: self._watcher.stage(f"quantize to {what_for}: {what}", done, total),
        )
        if self.recipe.quantize.recover and kind != "int8_weights":  # whose rounding costs next to nothing
            from edgekit.distill.reconstruction import reconstruct

            plan = reconstruct(
                plan,
                self.calibration(size).pixel_values,
                progress=lambda what, done, total: self._watcher.stage(
                    f"block reconstruction of {what_for}: {what}", done, total
                ),
            )
        plan = replace(
            plan,
            provenance={
                **plan.provenance,
                "key": key,
                "model": self.loaded.name,
                "parent_sha256": self.loaded.sha256,
                "recipe_digest": self.recipe.digest,
                "calibration_digest": self.calibration(size).digest,
                "calibration": self.calibration(size).source,
                "samples": len(self.calibration(size)),
            },
        )
        plan.save(path)
        if path == main_plan(self.out):
            (self.out / EXPLAINED).unlink(missing_ok=True)  # it was about another plan
        for unfinished in path.parent.glob(f".{path.stem}-*"):  # those of other requests too: they are large
            shutil.rmtree(unfinished, ignore_errors=True)
        return plan

    def _kept(self, kind: type[P], path: Path, key: str) -> P | None:
        """The plan of that key that an earlier run has left whole."""
        if not path.exists():
            return None
        try:
            plan = kind.load(path)
        except DataError as error:
            self._watcher.note(f"{path.name} is damaged and is made anew: {error.why}")
            return None
        return plan if plan.key == key else None

    def _head_plan(self, size: Size) -> HeadPlan:
        """The integers of all heads: read from the build folder when they are there, else made and saved."""
        from edgekit.quantization.heads import quantize_heads

        key, path = self.head_plan_key(size), self.plan_path(size, "heads")
        if kept := self._kept(HeadPlan, path, key):
            return kept
        plan = quantize_heads(
            self.model(size),
            self.heads,
            self.calibration(size).pixel_values,
            bits=self._head_bits,
            progress=lambda done, total: self._watcher.stage("quantize heads", done, total),
        )
        plan = replace(plan, key=key)
        plan.save(path)
        return plan

    def _head_plan_of(self, job: Job) -> HeadPlan | None:
        """The integers of heads in an artifact: weights alone where the backbone has no others."""
        if not self.has_head_plan(job):
            return None
        plan = self.head_plan(job.size)
        return plan if FACTS[job.precision].activations == "int8" else plan.weights_alone()

    def _reference(self, size: Size) -> Features:
        """Features of the float model in torch on the evaluation images, and what the heads make of them."""
        from edgekit.graph.torch_emitter import run_with_heads

        images = self.evaluation(size)
        return features_of(
            partial(run_with_heads, self.model(size), self.heads),  # type: ignore[arg-type]
            images.pixel_values,
            _BATCH,  # type: ignore[arg-type]
            patch=images.preprocess.patch,
            names=images.paths,
            groups=images.groups,
            progress=lambda done, total: self._watcher.stage("reference features", done, total),
        )

    def _judge(self, size: Size) -> AccuracyJudge | None:
        """Task accuracy of the float model, where the evaluation images are labelled."""
        labels = self.evaluation(size).labels
        return AccuracyJudge(self.reference(size), labels, seed=self.recipe.seed) if labels else None


def samples_that_fit(recipe: Recipe) -> tuple[int, int]:
    """How many images calibrate and how many judge: as asked, or fewer of each when one folder must serve for both.

    Raises:
        DataError: the folder is missing, or holds fewer than three images, too few for both.
    """
    asked = recipe.calibration.samples, recipe.evaluation_samples
    source, evaluation = recipe.calibration.source, recipe.evaluation
    if "demo" in (source, evaluation) or Path(source).resolve() != Path(evaluation).resolve():
        return asked
    found = len(ImageFolder.scan(Path(source)).paths)
    if found < 3:
        raise DataError(
            f"{source} holds {found} images, too few to calibrate on some and judge on others",
            fix="name a second folder with --eval",
        )
    if found >= sum(asked):
        return asked
    judges = min(asked[1], max(found // 3, found - asked[0]))  # calibration first, but never more than two thirds
    return found - judges, judges
