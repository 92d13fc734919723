"""The build pipeline: a recipe in, a build folder out, one row per artifact and never an abort for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["BuildResult", "Job", "PlanSummary", "Silent", "Watcher", "build", "jobs_of", "make_plans"]

if TYPE_CHECKING:
    from edgekit.pipeline.jobs import Job, jobs_of
    from edgekit.pipeline.run import BuildResult, PlanSummary, build, make_plans
    from edgekit.pipeline.watch import Silent, Watcher

_HOMES = {
    **dict.fromkeys(("Job", "jobs_of"), "edgekit.pipeline.jobs"),
    **dict.fromkeys(("BuildResult", "PlanSummary", "build", "make_plans"), "edgekit.pipeline.run"),
    **dict.fromkeys(("Silent", "Watcher"), "edgekit.pipeline.watch"),
}


def __getattr__(name: str) -> object:
    """Import a public name on first use: a build needs torch, and whoever only draws or lists does not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit.pipeline' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
