"""Keys of artifacts and drifts: digests of all that decides them, by which a later run keeps what is finished."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version

from edgekit import __version__
from edgekit.heads.own import decoders_of
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.jobs import Job, Size, exporter_of
from edgekit.pipeline.nncf import options_of
from edgekit.pipeline.records import digest_of
from edgekit.pipeline.stamp import tools_of

_MEASURES = 2  # rises when drift is measured in another way, so that one table does not mix the two


def artifact_key(job: Job, context: BuildContext) -> str:
    """Digest of all that decides an artifact."""
    recipe = context.recipe
    return digest_of(
        parent=context.loaded.sha256,
        format=job.format,
        precision=job.precision,
        variant=job.variant,
        size=job.size,
        engine=_engine_key(job, context),
        normalize=recipe.normalize,
        overflow=recipe.quantize.overflow,
        tools=tools_of(job.format),
        edgekit=__version__,
        **({"sides": job.sides} if job.sides else {}),
        **({"arithmetic": job.arithmetic} if job.arithmetic != "plan" else {}),
        **({"heads": context.inputs.heads_key()} if context.inputs.heads else {}),
        **context.plans.keys_of(job),
        **exporter_of(job, recipe).settings_of(recipe),
    )


def drift_key(size: Size, context: BuildContext) -> str:
    """Digest of all that decides a drift beside the artifact."""
    return digest_of(
        images=context.inputs.evaluation(size).digest,
        seed=context.recipe.seed,
        heads=sorted(decoders_of(context.loaded)),
        measures=_MEASURES,
    )


def _engine_key(job: Job, context: BuildContext) -> str:
    """Engine of an artifact; of another engine than ours with a digest of its options and images."""
    if job.engine == "edgekit":
        return job.engine
    calibration = context.inputs.calibration(job.size).digest
    return digest_of(nncf=version("nncf"), options=asdict(options_of(context.recipe)), images=calibration)
