"""Rows of files that a runtime computes otherwise than their plan, when it is left to its own settings."""

from __future__ import annotations

from edgekit.artifact import Artifact
from edgekit.backends import get_backend
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.jobs import Job


def run_by_default(job: Job, context: BuildContext) -> Artifact:
    """The file of the job's sibling, to be run with its runtime's own settings; nothing is written.

    Raises:
        DataError: the sibling is not there, since its own export failed.
    """
    backend = get_backend(job.format)
    sibling = backend.read(context.out / job.path)
    note = f"the same file at the settings of {backend.title}: {backend.own_arithmetic(job.precision, job.variant)}"
    return sibling.model_copy(update={"arithmetic": "default", "notes": (note,)})
