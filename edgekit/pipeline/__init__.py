"""The build pipeline: a recipe in, a build folder out, one row per artifact and never an abort for all."""

from __future__ import annotations

from edgekit.pipeline.jobs import Job, jobs_of
from edgekit.pipeline.run import BuildResult, PlanSummary, build, make_plans
from edgekit.pipeline.watch import Silent, Watcher

__all__ = ["BuildResult", "Job", "PlanSummary", "Silent", "Watcher", "build", "jobs_of", "make_plans"]
