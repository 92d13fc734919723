"""Chooses among the artifacts of a build by what was measured; the manifest records it, report and `load` read it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edgekit.manifest import Manifest
from edgekit.measure.drift import DriftReport
from edgekit.measure.latency import LatencyReport
from edgekit.pipeline.make import REFERENCE
from edgekit.pipeline.records import Record
from edgekit.pipeline.timing import Size, reference_name, size_of
from edgekit.report.content import BuildReport
from edgekit.report.verdict import Aim, Verdict, judge, one_run


@dataclass(frozen=True)
class Measured:
    """Measurements for one table: one image size, drift on the same images, latencies of one run."""

    reference: str  # the FP32 artifact, or REFERENCE where none was built
    drift: dict[str, DriftReport] = field(default_factory=dict)
    latency: dict[str, LatencyReport] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Record], size: Size, drift_key: str | None = None) -> Measured:
        """Select the measurements of one image size.

        Args:
            records: of all artifacts, whatever made them.
            size: (height, width) in pixels.
            drift_key: of the drift that counts; None takes that of the reference, or of the first that has one.
        """
        found = [record for record in records if record.row.status == "ok" and size_of(record.row) == size]
        reference = reference_name([record.row for record in found], suffix=None) or REFERENCE
        drifts = {record.row.name: (record.drift_key, record.drift) for record in found if record.drift}
        if drift_key is None and drifts:
            drift_key = drifts.get(reference, next(iter(drifts.values())))[0]
        latency = {record.row.name: record.latency for record in found if record.latency}
        return cls(
            reference=reference,
            drift={name: drift for name, (key, drift) in drifts.items() if key == drift_key},
            latency=one_run(latency, reference),
        )


def choose(
    manifest: Manifest, measured: Measured, aim: Aim, among: Collection[str] | None = None
) -> tuple[Verdict, Manifest]:
    """The verdict for `aim` on the artifacts `among` names (None: all), and the manifest that records its choice."""
    verdict = judge(
        manifest.artifacts, measured.drift, measured.latency, reference=measured.reference, aim=aim, among=among
    )
    return verdict, manifest.model_copy(update={"choice": verdict.recorded()})


def keep_choice(manifest: Manifest, earlier: Manifest) -> Manifest:
    """A manifest that was not measured with the choice of the one before it, as far as that is of the same files."""
    choice = earlier.choice
    if choice is None:
        return manifest
    then, now = ({row.name: (row.sha256, row.latency) for row in each.artifacts} for each in (earlier, manifest))
    same = choice.artifact is None or (choice.artifact in now and now[choice.artifact] == then.get(choice.artifact))
    return manifest.model_copy(update={"choice": choice}) if same else manifest


def choose_again(out: Path, aim: Aim) -> Verdict:
    """Choose for another aim by the measurements of OUT/report.json; it and the manifest record the choice.

    Raises:
        DataError: a report or manifest is missing or damaged.
    """
    report = BuildReport.read_json(out / "report.json")
    verdict = judge(report.manifest.artifacts, report.drift, report.latency, reference=report.reference, aim=aim)
    chosen = {"choice": verdict.recorded()}
    manifest = Manifest.read(out).model_copy(update=chosen)
    told = report.manifest.model_copy(update=chosen)
    report.model_copy(update={"verdict": verdict, "manifest": told}).write_json(out)
    manifest.write(out)
    return verdict


def main_size(manifest: Manifest) -> Size | None:
    """The image size whose artifacts have the plain names; None where nothing was built."""
    for height, width in manifest.recipe.get("image_size", ()):
        return int(height), int(width)
    return next((size for row in manifest.artifacts if (size := size_of(row))), None)
