"""Runs a recipe: makes what is missing, keeps what is finished, and writes the manifest after every artifact."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.files import sealed
from edgekit.heads.own import own_heads
from edgekit.host import describe_host
from edgekit.manifest import Manifest
from edgekit.measure.golden import golden_files
from edgekit.pipeline.choose import Measured, choose, keep_choice
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.folder import folder_lock
from edgekit.pipeline.jobs import Job, jobs_of, on_this_machine
from edgekit.pipeline.keys import artifact_key, drift_key
from edgekit.pipeline.make import UNWRITTEN, make
from edgekit.pipeline.preflight import integer_jobs, located, refuse_other_model
from edgekit.pipeline.records import Record, read_record, records_in
from edgekit.pipeline.reference import golden_home
from edgekit.pipeline.stamp import Measure, Request, finished, mark_finished
from edgekit.pipeline.timing import Timing, runs_of, timed
from edgekit.pipeline.watch import Silent, Watcher
from edgekit.precision import REFERENCE
from edgekit.progress import Step
from edgekit.recipe import Recipe

if TYPE_CHECKING:
    from edgekit.report.verdict import Aim, Verdict

_LATENCY, _REPORT = "latency", "report"  # steps behind those of the artifacts


@dataclass(frozen=True)
class BuildResult:
    """Result of a build: `kept`, `made`, `failed` and `timed` are names of artifacts, `report` is the page or None."""

    out: Path
    manifest: Manifest
    kept: tuple[str, ...]
    made: tuple[str, ...]
    report: Path | None
    verdict: Verdict | None  # None when nothing was to be measured
    seconds: float
    failed: tuple[str, ...] = ()  # tried by this build
    timed: tuple[str, ...] = ()  # by this build, in one interleaved run per image size
    redrawn: bool = False  # whether the report was written by this build

    @property
    def did_nothing(self) -> bool:
        """Whether everything was there already."""
        return not (self.made or self.failed or self.timed or self.redrawn)

    @property
    def exit_code(self) -> int:
        """0 when something was built, no FP32 artifact failed and none found no room on the disk; else 1."""
        rows = self.manifest.artifacts
        if any(row.name in self.failed and row.reason.startswith(UNWRITTEN) for row in rows):
            return 1
        fp32_failed = any(row.precision == REFERENCE and row.status == "failed" for row in rows)
        return int(fp32_failed or not any(row.status == "ok" for row in rows))


def build(
    recipe: Recipe | str | Path,
    out: Path | str,
    *,
    measure: Measure = "all",
    threads: int | None = None,
    aim: Aim | None = None,
    remeasure: bool = False,
    watcher: Watcher | None = None,
    **settings: Any,
) -> BuildResult:
    """Build every artifact of a recipe into `out`.

    `edgekit.build("demo", "OUT", formats="onnx,openvino", image_size=448)` is the recipe of that model with these
    fields, see `Recipe.of`.

    Finished artifacts of an earlier run are kept when nothing that decides them has changed: checkpoint, calibration
    images, quantization steps, image size, package versions. Artifacts of the same model that this recipe does not
    name stay listed in the manifest; where latency is measured they are timed again in the same run as the others.

    Args:
        recipe: what to build, or only its model: a name of the zoo, or a checkpoint.
        out: the build folder, see the contract in docs/quickstart.md.
        measure: drift and latency, drift alone, or neither.
        threads: of each runtime while latency is measured; None leaves it to the runtime.
        aim: choose among the artifacts for this; None is for latency. The manifest records the choice.
        remeasure: time all artifacts again even where nothing has changed.
        watcher: told what happens.
        **settings: fields of the recipe.

    Raises:
        RecipeError: unknown model or field, or impossible request.
        DataError: images or checkpoint cannot be read, `out` cannot be written or holds another model.
        BackendMissing: torch is not installed.
    """

    start, out, watcher = time.monotonic(), Path(out), watcher or Silent()
    watcher.stage("look for backends and fused ops")  # the latter are compiled on first use
    recipe = located(Recipe.of(recipe, **settings))
    jobs = on_this_machine(jobs_of(recipe), runtime_defaults=recipe.runtime_defaults)
    request = Request(recipe, jobs, out, measure, threads, aim)
    if not remeasure and (manifest := finished(request)):
        return _nothing_done(request, manifest, time.monotonic() - start)
    with folder_lock(out):
        result = _build(request, remeasure, watcher)
    return replace(result, seconds=time.monotonic() - start)


def _build(request: Request, remeasure: bool, watcher: Watcher) -> BuildResult:
    from edgekit.models import zoo

    jobs, out, measure = request.jobs, request.out, request.measure
    watcher.stage(f"load {request.recipe.model}")
    loaded = zoo.load(request.recipe.model, notify=watcher.note, **request.recipe.positions)
    refuse_other_model(out, loaded.name, loaded.sha256, loaded.model.config)
    context = BuildContext(request.recipe, loaded, out, watcher)
    earlier = Manifest.read(out) if (out / "manifest.json").exists() else None
    watcher.plan(_steps(jobs, context, measure))
    records, kept = _artifacts(jobs, context, measure, watcher)
    manifest, timings = _write(jobs, records, context), tuple[str, ...]()
    if measure == "all":
        watcher.step(_LATENCY)
        timing = Timing(request.threads, seed=request.recipe.seed, again=remeasure)
        others = {record.row.name: record for record in _others(jobs, out)}
        every, timings = timed({**records, **others}, manifest, out, timing, watcher)
        records = {name: every[name] for name in records}
        manifest = _write(jobs, records, context)
    names = [job.name for job in jobs if records[job.name].row.status == "ok"]
    report, verdict, redrawn = None, None, False
    if measure != "none":
        from edgekit.pipeline.reporting import report_build
        from edgekit.report.verdict import Aim

        changed = any(name not in kept for name in names)
        watcher.step(_REPORT)
        size = jobs[0].size
        among = [*records.values(), *_others(jobs, out)]  # artifacts of earlier recipes included
        measured = Measured.of(among, size, drift_key(size, context))
        named = [job.name for job in jobs] if request.aim else None  # a choice that was asked for is of what was named
        verdict, manifest = choose(manifest, measured, request.aim or Aim(), named)
        manifest.write(out)
        report, redrawn = report_build(manifest, measured, verdict, context, changed=changed, watcher=watcher)
    elif earlier:
        manifest = keep_choice(manifest, earlier)
        manifest.write(out)
    failed = tuple(job.name for job in jobs if records[job.name].row.status == "failed")
    if not failed:
        mark_finished(request)
    made = tuple(name for name in names if name not in kept)
    return BuildResult(
        out,
        manifest,
        tuple(name for name in names if name in kept),
        made,
        report,
        verdict,
        0.0,
        failed,
        timings,
        redrawn,
    )


def _steps(jobs: Sequence[Job], context: BuildContext, measure: Measure) -> list[Step]:
    """Each artifact, the first of a quantization plan together with it, then latency and report.

    Weights are about the seconds that each took of the demo model at 224 pixels on two cores.
    """
    steps, plans = [], set()
    for job in jobs:
        if job.blocked:
            continue
        weight = 4.0 if measure == "none" else 8.0
        if job.integer and (plan := (context.plans.size(job), context.plans.kind(job))) not in plans:
            plans.add(plan)
            weight += 90.0 if plan[1] != "int8_weights" else 45.0
        steps.append(Step(job.name, weight))
    if measure == "all":
        steps.append(Step(_LATENCY, 7.0 * len(steps)))
    if measure != "none":
        steps.append(Step(_REPORT, 10.0))
    return steps


@dataclass(frozen=True)
class PlanSummary:
    """A quantization plan that was made: how many GEMMs are integers, why others are not, or have more bits."""

    path: Path
    gemms: int
    kept_float: dict[str, str]
    promoted: dict[str, str]


def make_plans(recipe: Recipe, out: Path | str, *, watcher: Watcher | None = None) -> tuple[PlanSummary, ...]:
    """Make the plans of a recipe's integer precisions in OUT/plan, where a later build finds them.

    Raises:
        RecipeError: no integer precision is asked for, or the model is unknown.
        DataError: as `build`.
    """

    out, watcher = Path(out), watcher or Silent()
    jobs = integer_jobs(jobs_of(recipe))
    recipe = located(recipe)
    with folder_lock(out):
        context = BuildContext.load(recipe, out, watcher)
        found = []
        wanted = sorted(
            {(context.plans.size(job), context.plans.kind(job)) for job in jobs},
            key=lambda each: (each[0] or (), each[1]),
        )
        watcher.plan([Step(f"plan {context.plans.path(*each).stem}") for each in wanted])
        for size, kind in wanted:
            watcher.step(f"plan {context.plans.path(size, kind).stem}")
            plan = context.plans.quant(size, kind)
            found.append(PlanSummary(context.plans.path(size, kind), len(plan.gemms), plan.kept_float, plan.promoted))
    return tuple(found)


def _nothing_done(request: Request, manifest: Manifest, seconds: float) -> BuildResult:
    from edgekit.report.content import BuildReport

    out = request.out
    page, data = out / "report.html", out / "report.json"
    verdict = BuildReport.read_json(data).verdict if data.exists() else None
    kept = tuple(job.name for job in request.jobs if not job.blocked)
    return BuildResult(out, manifest, kept, (), page if page.exists() else None, verdict, seconds)


def _artifacts(
    jobs: Sequence[Job], context: BuildContext, measure: Measure, watcher: Watcher
) -> tuple[dict[str, Record], set[str]]:
    """The record of every job, and the names of those that an earlier run had finished."""
    records: dict[str, Record] = {}
    kept: set[str] = set()
    for job in jobs:
        if job.blocked:
            records[job.name] = Record(key="", row=job.row("not here", job.blocked))
        else:
            key = artifact_key(job, context)
            drift = "" if measure == "none" else drift_key(job.size, context)
            record = read_record(context.out, job.name)
            if record is not None and record.holds(context.out, key) and drift in ("", record.drift_key):
                kept.add(job.name)
                context.plans.mend(job, record.plans, kept=True)
                if job.sides or any(sealed(file) for file in golden_files(golden_home(context.out, job))):
                    context.reference.write_golden(context.out, job)
            else:
                watcher.step(job.name)
                if record is not None and record.key == key:
                    context.plans.mend(job, record.plans, kept=False)
                context.reference.write_golden(context.out, job)
                record = make(job, context, key, drift, watcher)
                record = record.model_copy(update={"plans": context.plans.digests_of(job)})
                record.write(context.out)
            records[job.name] = record
        _write(jobs, records, context)
        watcher.finished(records[job.name].row, "kept" if job.name in kept else "made")
    return records, kept


def _write(jobs: Sequence[Job], records: dict[str, Record], context: BuildContext) -> Manifest:
    """The manifest of what is finished so far; of an earlier run's other artifacts those that are still there."""
    rows = [records[job.name].row for job in jobs if job.name in records]
    others = _others(jobs, context.out)
    rows += [record.row for record in others]
    loaded, config = context.loaded, context.loaded.model.config
    classes = {name: head.classes for name, head in context.inputs.heads.items() if head.classes}
    manifest = Manifest(
        model={
            "name": loaded.name,
            "source": loaded.source,
            "licence": loaded.licence,
            "origin": loaded.origin,
            "sha256": loaded.sha256,
            "heads": sorted(own_heads(loaded)),
            "config": asdict(config),
            **({"classes": classes} if classes else {}),
            **({"licence_text": loaded.licence_text} if loaded.licence_text else {}),
            **({"remarks": context.inputs.remarks} if context.inputs.remarks else {}),
        },
        recipe=context.recipe.model_dump(mode="json"),
        recipe_digest=context.recipe.digest,
        host=describe_host().model_dump(mode="json"),
        artifacts=tuple(rows),
        runs=runs_of(record.latency for record in (*records.values(), *others)),
    )
    manifest.write(context.out)
    return manifest


def _others(jobs: Sequence[Job], out: Path) -> list[Record]:
    """Records of artifacts that these jobs do not make."""
    mine = {job.name for job in jobs}
    return [record for name, record in records_in(out).items() if name not in mine]
