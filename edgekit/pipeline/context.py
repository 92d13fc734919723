"""The context of one build: its inputs, its plans and its reference, and what a backend gets of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifact import Artifact
from edgekit.backends import get_backend
from edgekit.backends.source import ExportSource
from edgekit.manifest import ArtifactRow
from edgekit.models import zoo
from edgekit.pipeline.inputs import BuildInputs
from edgekit.pipeline.jobs import Job
from edgekit.pipeline.plan_store import PlanStore
from edgekit.pipeline.reference import Reference
from edgekit.pipeline.watch import Watcher
from edgekit.recipe import Recipe

if TYPE_CHECKING:
    from edgekit.models.zoo import LoadedModel


class BuildContext:
    """Inputs, plans and reference that the artifacts of one build share."""

    def __init__(self, recipe: Recipe, loaded: LoadedModel, out: Path, watcher: Watcher) -> None:
        self.recipe, self.loaded, self.out = recipe, loaded, out
        self.inputs = BuildInputs(recipe, loaded, watcher)
        self.plans = PlanStore(self.inputs, out)
        self.reference = Reference(self.inputs)

    @classmethod
    def load(cls, recipe: Recipe, out: Path, watcher: Watcher) -> BuildContext:
        """The context of a recipe, whose model is loaded now.

        Raises:
            RecipeError: unknown model, or a size or head that it cannot take.
            DataError: the checkpoint, a head or the folders of images cannot be read.
            BackendMissing: torch is not installed.
        """
        loaded = zoo.load(recipe.model, notify=watcher.note, **recipe.positions)
        return cls(recipe, loaded, out, watcher)

    def source(self, job: Job) -> ExportSource:
        """Input of a job's export; the plan is made now if the job is written from one."""
        integer_only = job.precision in get_backend(job.format).integer_only
        return ExportSource(
            model=self.inputs.model_of(job),
            preprocess=self.inputs.transform(job),
            plan=self.plans.of(job),
            model_name=self.loaded.name,
            licence=self.loaded.licence,
            parent_sha256=self.loaded.sha256,
            recipe_digest=self.recipe.digest,
            overflow=self.recipe.quantize.overflow,
            heads=self.inputs.heads,
            head_plan=self.plans.heads_of(job),
            calibration=self.inputs.calibration(job.size).pixel_values if integer_only else None,
        )

    def artifact_of(self, row: ArtifactRow) -> Artifact:
        """The artifact that a row of this build describes."""
        return row.to_artifact(self.out, recipe_digest=self.recipe.digest, parent_sha256=self.loaded.sha256)
