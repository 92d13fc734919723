"""Measures artifacts that exist already: drift against one of them, and latency in turns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.artifact import Artifact
from edgekit.backends import artifact_of, get_backend
from edgekit.backends.loading import artifact_at
from edgekit.errors import DataError, EdgekitError
from edgekit.images.sets import ImageSet, load_set
from edgekit.manifest import Manifest
from edgekit.measure.accuracy import AccuracyJudge
from edgekit.measure.drift import DriftReport, OnTasks, measure_drift
from edgekit.measure.features import Features, features_of
from edgekit.measure.latency import LatencyRun, TimingOptions, measure_latency
from edgekit.measure.worker import Target
from edgekit.pipeline.timing import reference_name
from edgekit.pipeline.watch import Silent, Watcher
from edgekit.precision import is_reference
from edgekit.progress import Step

if TYPE_CHECKING:
    from edgekit.backends.openvino.runner import Hint


def artifacts_in(path: Path) -> tuple[Artifact, ...]:
    """The artifact at `path`, or all finished ones of the build folder `path`, in the manifest's order.

    Raises:
        DataError: neither, or a build folder without any artifact.
    """
    if not (path / "manifest.json").is_file():
        return (artifact_at(path),)
    manifest = Manifest.read(path)
    found = tuple(artifact_of(row, manifest, path) for row in manifest.artifacts if row.status == "ok")
    if not found:
        raise DataError(f"{path} holds no finished artifact", fix=f"edgekit build --out {path}")
    return found


def reference_of(path: Path) -> Artifact:
    """The FP32 artifact of the build folder `path`, or of the one around the artifact `path`.

    Raises:
        DataError: there is none.
    """
    for folder in (path, *path.resolve().parents[:2]):
        if (folder / "manifest.json").is_file():
            manifest = Manifest.read(folder)
            name = reference_name(manifest.artifacts)
            if name is not None:
                return next(artifact_of(row, manifest, folder) for row in manifest.artifacts if row.name == name)
    raise DataError(f"no FP32 artifact to compare {path} with", fix="--reference ARTIFACT")


def drift_between(
    reference: Artifact,
    candidates: Sequence[Artifact],
    source: str,
    *,
    samples: int,
    seed: int = 0,
    watcher: Watcher | None = None,
) -> dict[str, DriftReport]:
    """Drift of each candidate against `reference` on `samples` images of `source` (a folder, or "demo").

    Each model gets the images prepared as it wants them; those of another image size are compared with nothing. Where
    the images lie in a folder per class, k-NN and a linear probe are judged, too.

    Raises:
        DataError: no images, or an artifact of another image size than the reference.
        BackendMissing: a runtime is missing.
    """
    watcher = watcher or Silent()

    def features(artifact: Artifact, images: ImageSet) -> Features:
        watcher.step(artifact.name)
        runner = get_backend(artifact.format).runner(artifact)
        return features_of(
            runner,
            images.pixel_values,
            patch=images.preprocess.patch,
            names=images.paths,
            groups=images.groups,
            progress=lambda done, total: watcher.stage(artifact.name, done, total),
        )

    def images_for(artifact: Artifact) -> ImageSet:
        return load_set(source, artifact.preprocess, samples=samples, seed=seed, split="evaluation")

    watcher.plan([Step(artifact.name) for artifact in (reference, *candidates)])
    images = images_for(reference)
    expected = features(reference, images)
    judge = AccuracyJudge(expected, images.labels, seed=seed) if images.labels else None
    reports = {}
    for candidate in candidates:
        if candidate.preprocess.input_size != reference.preprocess.input_size:
            raise DataError(
                f"{candidate.name} takes {candidate.preprocess.input_size} pixels, {reference.name} "
                f"{reference.preprocess.input_size}",
                fix="--reference ARTIFACT",
            )
        found = features(candidate, images_for(candidate))
        reports[candidate.name] = measure_drift(
            expected,
            found,
            reference_name=reference.name,
            candidate_name=candidate.name,
            seed=seed,
            on_tasks=OnTasks(accuracy=judge.measure(found) if judge else ()),
        )
    return reports


def latency_of(
    artifacts: Sequence[Artifact],
    *,
    batch: int = 1,
    threads: int | None = None,
    rounds: int = 10,
    seed: int = 0,
    hint: Hint = "latency",
    watcher: Watcher | None = None,
) -> LatencyRun:
    """Latency of artifacts on random pixels of their image size; the first FP32 one is what speedups refer to.

    `hint` is for OpenVINO: "throughput" spreads the images of a batch over parallel streams.

    Raises:
        EdgekitError: the artifacts take images of different sizes, or two have the same name.
    """
    watcher = watcher or Silent()
    skipped = {artifact.name: why for artifact in artifacts if (why := get_backend(artifact.format).untimed())}
    artifacts = [artifact for artifact in artifacts if artifact.name not in skipped]
    if not artifacts:
        return LatencyRun(reports={}, failures=skipped)
    sizes = {artifact.preprocess.input_size for artifact in artifacts}
    if len(sizes) != 1:
        raise EdgekitError(f"the artifacts take images of different sizes: {sorted(sizes)}", fix="time them one by one")
    if len({artifact.name for artifact in artifacts}) != len(artifacts):  # of several build folders
        artifacts = [artifact.model_copy(update={"name": str(artifact.path)}) for artifact in artifacts]
    pixels = np.random.default_rng(seed).standard_normal((batch, 3, *sizes.pop())).astype(np.float32)
    targets = [_target(artifact, hint) for artifact in artifacts]
    floats = [is_reference(artifact.precision, artifact.variant) for artifact in artifacts]
    reference = next((t.name for t, is_float in zip(targets, floats, strict=True) if is_float), None)
    timing = TimingOptions(rounds=rounds, seed=seed)
    run = measure_latency(targets, pixels, timing, threads=threads, reference=reference, notify=watcher.stage)
    return run.model_copy(update={"failures": run.failures | skipped})


def _target(artifact: Artifact, hint: Hint) -> Target:
    """The target of a worker; the hint is in the name where it matters."""
    target = Target.of(artifact)
    loader = get_backend(artifact.format).throughput_loader
    if hint == "latency" or loader is None:
        return target
    name = f"{artifact.name} ({hint})"
    return Target(loader=loader, argument=target.argument, name=name)
