"""The plans of a build folder: each is read from OUT/plan where it is there and whole, else made and saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeVar

from edgekit import __version__
from edgekit.backends import get_backend
from edgekit.errors import DataError
from edgekit.files import sha256_of
from edgekit.pipeline.inputs import BuildInputs
from edgekit.pipeline.jobs import Job, Size
from edgekit.pipeline.plans import PlanFile, PlanKind, inputs_of, kind_of, main_plan, plan_file, quantize_recipe
from edgekit.pipeline.records import digest_of
from edgekit.plan.checks import misfit
from edgekit.plan.heads import ENGINE as HEAD_ENGINE
from edgekit.plan.heads import HeadPlan
from edgekit.plan.quant import QuantPlan
from edgekit.precision import FACTS
from edgekit.quantization.checkpoint import ENGINE
from edgekit.quantization.explanation import FILE as EXPLAINED
from edgekit.quantization.sizes import baked_plan

P = TypeVar("P", QuantPlan, HeadPlan)


class PlanStore:
    """Quantization plans of one build, by image size and kind; none is made twice.

    Where a recipe makes files for images of any size, there is one plan of each kind, calibrated over mixed sizes; its
    size is None, and baked files are written from it too.
    """

    def __init__(self, inputs: BuildInputs, out: Path) -> None:
        self._inputs, self._out, self._recipe = inputs, out, inputs.recipe
        self._distrusted: set[Path] = set()
        self.quant = cache(self._quant)
        self.heads = cache(self._heads)

    def kind(self, job: Job) -> PlanKind:
        """The plan that an integer artifact is written from."""
        return kind_of(job, self._recipe.quantize)

    def size(self, job: Job) -> Size | None:
        """The image size of the plan that an artifact is written from, None for that of any."""
        return None if self._recipe.any_size else job.size

    def path(self, size: Size | None, kind: PlanKind | Literal["heads"]) -> Path:
        """OUT/plan/<kind>.safetensors, with the size unless it is the main one or any."""
        return self._out / plan_file(kind, size, self._recipe.main_size)

    def of(self, job: Job) -> QuantPlan | None:
        """The plan of an artifact, None for one that is not written from a plan."""
        if not job.integer:
            return None
        plan = self.quant(self.size(job), self.kind(job))
        return baked_plan(plan, job.size) if self._recipe.any_size and not job.sides else plan

    def heads_of(self, job: Job) -> HeadPlan | None:
        """The integers of heads in an artifact: weights alone where the backbone has no others."""
        if not self._has_head_plan(job):
            return None
        plan = self.heads(job.size)
        return plan if FACTS[job.precision].activations == "int8" else plan.weights_alone()

    def keys_of(self, job: Job) -> dict[str, str]:
        """Digests of all that decides the plans of an artifact."""
        plan = self._key(self.size(job), self.kind(job)) if job.integer else ""
        return {"plan": plan, **({"head_plan": self._head_key(job.size)} if self._has_head_plan(job) else {})}

    def digests_of(self, job: Job) -> dict[str, str]:
        """SHA-256 of the plans that a job is written from, by path in the build folder."""
        paths = [plan.path for plan in self._files_of(job) if plan.path.is_file()]
        return {path.relative_to(self._out).as_posix(): sha256_of(path) for path in paths}

    def mend(self, job: Job, known: Mapping[str, str], *, kept: bool) -> None:
        """Distrust plans that are not those an artifact was recorded with, and make what is damaged anew.

        Args:
            job: of the artifact.
            known: the digests in its record; whoever alters a plan may alter the one beside it, too.
            kept: whether the artifact stays: its plans are needed all the same, `edgekit explain` reads them.
        """
        for plan in self._files_of(job):
            digest = known.get(plan.path.relative_to(self._out).as_posix())
            if digest and plan.is_another(digest):
                self._distrusted.add(plan.path)
                note = f"{plan.path.name} is not the plan that {job.name} was written from: made anew"
                self._inputs.watcher.note(note)
            if kept and (plan.path in self._distrusted or plan.is_damaged()):
                plan.make()

    def _files_of(self, job: Job) -> list[PlanFile]:
        """The plans that a job is written from."""
        found, size = [], job.size
        if job.integer:
            kind, planned = self.kind(job), self.size(job)
            key = partial(self._key, planned, kind)
            found.append(PlanFile(self.path(planned, kind), QuantPlan, key, lambda: self.quant(planned, kind)))
        if self._has_head_plan(job):
            key = partial(self._head_key, size)
            found.append(PlanFile(self.path(size, "heads"), HeadPlan, key, lambda: self.heads(size)))
        return found

    def _has_head_plan(self, job: Job) -> bool:
        """Whether heads have integers in an artifact; one of integers throughout has no heads."""
        with_heads = bool(self._inputs.heads) and job.precision not in get_backend(job.format).integer_only
        return job.integer and with_heads and self._recipe.head_precision == "int8"

    def _quant(self, size: Size | None, kind: PlanKind) -> QuantPlan:
        key, path = self._key(size, kind), self.path(size, kind)
        return self._stored(
            QuantPlan, path, key, lambda: self._quantized(size, kind, key, path), partial(self._misfit, size)
        )

    def _misfit(self, size: Size | None, plan: QuantPlan) -> str:
        """Why a plan with the right key is not one of this model all the same; "" where it is one."""
        parent, here = plan.provenance.get("parent_sha256"), self._inputs.loaded.sha256
        if parent != here:
            return f"its checkpoint has SHA-256 {str(parent)[:12]}…, this one {here[:12]}…"
        return misfit(plan, self._inputs.model(size).config, size or self._recipe.main_size)

    def _heads(self, size: Size) -> HeadPlan:
        """The integers of all heads."""
        from edgekit.quantization.heads import quantize_heads

        inputs, key = self._inputs, self._head_key(size)

        def made() -> HeadPlan:
            plan = quantize_heads(
                inputs.model(size),
                inputs.heads,
                inputs.calibration(size).pixel_values,
                bits=self._head_bits,
                progress=lambda done, total: inputs.watcher.stage("quantize heads", done, total),
            )
            return replace(plan, key=key)

        return self._stored(HeadPlan, self.path(size, "heads"), key, made)

    def _stored(
        self, kind: type[P], path: Path, key: str, make: Callable[[], P], misfits: Callable[[P], str] = lambda _: ""
    ) -> P:
        """The plan of that key that an earlier run has left whole, else a new one, which is saved."""
        if path not in self._distrusted and (path.exists() or path.is_symlink()):
            try:
                plan = kind.load(path)
                if plan.key == key and not (why := misfits(plan)):
                    return plan
                if plan.key == key:
                    note = f"{path.name} is another plan than its name says and is made anew: {why}"
                    self._inputs.watcher.note(note)
            except DataError as error:
                self._inputs.watcher.note(f"{path.name} is damaged and is made anew: {error.why}")
        plan = make()
        plan.save(path)
        if path == main_plan(self._out):
            (self._out / EXPLAINED).unlink(missing_ok=True)  # it was about another plan
        for unfinished in path.parent.glob(f".{path.stem}-*"):  # those of other requests too: they are large
            shutil.rmtree(unfinished, ignore_errors=True)
        return plan

    def _quantized(self, size: Size | None, kind: PlanKind, key: str, path: Path) -> QuantPlan:
        """A new plan; what a killed run had finished of it is in a folder beside `path`."""
        from edgekit.quantization.engine import quantize

        inputs, recipe, title = self._inputs, self._recipe, kind.replace("_", " ")
        images = [inputs.calibration(size)] if size else inputs.mixed_calibration()
        plan = quantize(
            inputs.model(size),
            images[0].pixel_values if size else [each.pixel_values for each in images],
            quantize_recipe(recipe.quantize, kind),
            inputs=inputs_of(kind),
            cache=path.with_name(f".{path.stem}-{key}"),
            progress=lambda what, done, total: inputs.watcher.stage(f"quantize to {title}: {what}", done, total),
        )
        if recipe.quantize.recover and kind != "int8_weights":  # whose rounding costs next to nothing
            from edgekit.distill.reconstruction import reconstruct

            trained = reconstruct(
                plan if size else baked_plan(plan, recipe.main_size),
                images[0].pixel_values,
                progress=lambda what, done, total: inputs.watcher.stage(
                    f"block reconstruction of {title}: {what}", done, total
                ),
            )
            table = {key: plan.float_tensors[key] for key in ("pos_embed",) if key in plan.float_tensors}
            plan = replace(trained, config=plan.config, float_tensors=trained.float_tensors | table)
        provenance = {
            "key": key,
            "model": inputs.loaded.name,
            "parent_sha256": inputs.loaded.sha256,
            "recipe_digest": recipe.digest,
            "calibration_digest": self._images_digest(size),
            "calibration": images[0].source,
            "samples": sum(map(len, images)),
            **({} if size else {"sizes": [[*each.preprocess.input_size, len(each)] for each in images]}),
        }
        return replace(plan, provenance={**plan.provenance, **provenance})

    def _images_digest(self, size: Size | None) -> str:
        """Digest of the images that calibrate for a size, None for any."""
        if size:
            return self._inputs.calibration(size).digest
        return digest_of(sets=[images.digest for images in self._inputs.mixed_calibration()])

    def _key(self, size: Size | None, kind: PlanKind) -> str:
        """Digest of all that decides a plan."""
        return digest_of(
            parent=self._inputs.loaded.sha256,
            size=size,
            normalize=self._recipe.normalize,
            seed=self._recipe.seed,
            quantize=quantize_recipe(self._recipe.quantize, kind).model_dump(mode="json"),
            inputs=inputs_of(kind),
            calibration=self._images_digest(size),
            edgekit=__version__,
            engine=ENGINE,
        )

    def _head_key(self, size: Size) -> str:
        """Digest of all that decides the integers of heads."""
        return digest_of(
            parent=self._inputs.loaded.sha256,
            size=size,
            normalize=self._recipe.normalize,
            heads=self._inputs.heads_key(),
            bits=self._head_bits,
            calibration=self._inputs.calibration(size).digest,
            edgekit=__version__,
            engine=HEAD_ENGINE,
        )

    @property
    def _head_bits(self) -> float:
        return quantize_recipe(self._recipe.quantize, "int8").bits
