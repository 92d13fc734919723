"""Runs a recipe: makes what is missing, keeps what is finished, and writes the manifest after every artifact."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.artifact import Manifest
from edgekit.errors import DataError
from edgekit.files import sealed
from edgekit.heads.own import decoders_of, own_heads
from edgekit.host import describe_host
from edgekit.measure.golden import golden_files, write_golden
from edgekit.pipeline.choose import Measured, choose, keep_choice
from edgekit.pipeline.context import Materials
from edgekit.pipeline.folder import held
from edgekit.pipeline.jobs import Job, exporter_of, jobs_of, on_this_machine
from edgekit.pipeline.make import UNWRITTEN, golden_home, make
from edgekit.pipeline.preflight import integer_jobs, located, refuse_other_model
from edgekit.pipeline.records import Record, digest_of, read_record, records_in
from edgekit.pipeline.stamp import Measure, Request, finished, mark_finished, tools_of
from edgekit.pipeline.timing import Timing, runs_of, timed
from edgekit.pipeline.watch import Silent, Watcher
from edgekit.precision import REFERENCE
from edgekit.progress import Step
from edgekit.recipe import Recipe

if TYPE_CHECKING:
    from edgekit.report.verdict import Aim, Verdict

_GOLDEN_IMAGES = 4
_LATENCY, _REPORT = "latency", "report"  # steps behind those of the artifacts
_MEASURES = 2  # rises when drift is measured in another way, so that one table does not mix the two


@dataclass(frozen=True)
class BuildResult:
    """What a build did. `kept`, `made`, `failed` and `timed` name artifacts; `report` is the page, None without one."""

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
    request = Request(recipe, on_this_machine(jobs_of(recipe)), out, measure, threads, aim)
    if not remeasure and (manifest := finished(request)):
        return _nothing_done(request, manifest, time.monotonic() - start)
    with held(out):
        result = _build(request, remeasure, watcher)
    return replace(result, seconds=time.monotonic() - start)


def _build(request: Request, remeasure: bool, watcher: Watcher) -> BuildResult:
    from edgekit.models import zoo

    jobs, out, measure = request.jobs, request.out, request.measure
    watcher.stage(f"load {request.recipe.model}")
    loaded = zoo.load(request.recipe.model, notify=watcher.note, **request.recipe.positions)
    refuse_other_model(out, loaded.name, loaded.sha256, loaded.model.config)
    materials = Materials(request.recipe, loaded, out, watcher)
    earlier = Manifest.read(out) if (out / "manifest.json").exists() else None
    watcher.plan(_steps(jobs, materials, measure))
    records, kept = _artifacts(jobs, materials, measure, watcher)
    manifest, timings = _write(jobs, records, materials), tuple[str, ...]()
    if measure == "all":
        watcher.step(_LATENCY)
        timing = Timing(request.threads, seed=request.recipe.seed, again=remeasure)
        others = {record.row.name: record for record in _others(jobs, out)}
        every, timings = timed({**records, **others}, manifest, out, timing, watcher)
        records = {name: every[name] for name in records}
        manifest = _write(jobs, records, materials)
    names = [job.name for job in jobs if records[job.name].row.status == "ok"]
    report, verdict, redrawn = None, None, False
    if measure != "none":
        from edgekit.pipeline.reporting import report_build
        from edgekit.report.verdict import Aim

        changed = any(name not in kept for name in names)
        watcher.step(_REPORT)
        measured = _measured(jobs, records, materials)
        among = [job.name for job in jobs] if request.aim else None  # a choice that was asked for is of what was named
        verdict, manifest = choose(manifest, measured, request.aim or Aim(), among)
        manifest.write(out)
        report, redrawn = report_build(manifest, measured, verdict, materials, changed=changed, watcher=watcher)
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


def _measured(jobs: Sequence[Job], records: dict[str, Record], materials: Materials) -> Measured:
    """What may be compared at the main image size, artifacts of earlier recipes included."""
    size = jobs[0].size
    images = materials.evaluation(size)
    return Measured.of([*records.values(), *_others(jobs, materials.out)], size, _drift_key(images.digest, materials))


def _steps(jobs: Sequence[Job], materials: Materials, measure: Measure) -> list[Step]:
    """Each artifact, the first of a quantization plan together with it, then latency and report.

    Weights are about the seconds that each took of the demo model at 224 pixels on two cores.
    """
    steps, plans = [], set()
    for job in jobs:
        if job.blocked:
            continue
        weight = 4.0 if measure == "none" else 8.0
        if job.integer and (plan := (job.size, materials.plan_kind(job))) not in plans:
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
    from edgekit.models import zoo

    out, watcher = Path(out), watcher or Silent()
    jobs = integer_jobs(jobs_of(recipe))
    recipe = located(recipe)
    with held(out):
        materials = Materials(recipe, zoo.load(recipe.model, notify=watcher.note, **recipe.positions), out, watcher)
        found = []
        wanted = sorted({(job.size, materials.plan_kind(job)) for job in jobs})
        watcher.plan([Step(f"plan {materials.plan_path(*each).stem}") for each in wanted])
        for size, kind in wanted:
            watcher.step(f"plan {materials.plan_path(size, kind).stem}")
            plan = materials.plan(size, kind)
            found.append(PlanSummary(materials.plan_path(size, kind), len(plan.gemms), plan.kept_float, plan.promoted))
    return tuple(found)


def _nothing_done(request: Request, manifest: Manifest, seconds: float) -> BuildResult:
    from edgekit.report.content import BuildReport

    out = request.out
    page, data = out / "report.html", out / "report.json"
    verdict = BuildReport.read_json(data).verdict if data.exists() else None
    kept = tuple(job.name for job in request.jobs if not job.blocked)
    return BuildResult(out, manifest, kept, (), page if page.exists() else None, verdict, seconds)


def _artifacts(
    jobs: Sequence[Job], materials: Materials, measure: Measure, watcher: Watcher
) -> tuple[dict[str, Record], set[str]]:
    """The record of every job, and the names of those that an earlier run had finished."""
    records: dict[str, Record] = {}
    kept: set[str] = set()
    for job in jobs:
        if job.blocked:
            records[job.name] = Record(key="", row=job.row("not here", job.blocked))
        else:
            key, drift_key = _keys(job, materials, measure)
            record = read_record(materials.out, job.name)
            if record is not None and record.holds(materials.out, key) and drift_key in ("", record.drift_key):
                kept.add(job.name)
                materials.mend_plans(job)
                if any(sealed(file) for file in golden_files(golden_home(materials.out, job))):
                    _golden(job, materials)
            else:
                watcher.step(job.name)
                _golden(job, materials)
                record = make(job, materials, key, drift_key, watcher)
                record.write(materials.out)
            records[job.name] = record
        _write(jobs, records, materials)
        watcher.finished(records[job.name].row, "kept" if job.name in kept else "made")
    return records, kept


def _keys(job: Job, materials: Materials, measure: Measure) -> tuple[str, str]:
    """Digests of all that decides the artifact, and its drift ("" when that is not to be measured)."""
    recipe = materials.recipe
    key = digest_of(
        parent=materials.loaded.sha256,
        format=job.format,
        precision=job.precision,
        variant=job.variant,
        size=job.size,
        engine=_engine_key(job, materials),
        normalize=recipe.normalize,
        overflow=recipe.quantize.overflow,
        tools=tools_of(job.format),
        edgekit=__version__,
        plan=materials.plan_key(job.size, materials.plan_kind(job)) if job.integer else "",
        **({"heads": materials.heads_key()} if materials.heads else {}),
        **({"head_plan": materials.head_plan_key(job.size)} if materials.has_head_plan(job) else {}),
        **exporter_of(job, recipe).settings_of(recipe),
    )
    return key, "" if measure == "none" else _drift_key(materials.evaluation(job.size).digest, materials)


def _drift_key(images: str, materials: Materials) -> str:
    """Digest of all that decides a drift beside the artifact; `images` is the digest of the evaluation images."""
    return digest_of(
        images=images, seed=materials.recipe.seed, heads=sorted(decoders_of(materials.loaded)), measures=_MEASURES
    )


def _engine_key(job: Job, materials: Materials) -> str:
    """What decides an artifact of another engine than ours, whose steps the plan's key holds."""
    if job.engine == "edgekit":
        return job.engine
    from importlib.metadata import version

    from edgekit.pipeline.nncf import options_of

    calibration = materials.calibration(job.size).digest
    return digest_of(nncf=version("nncf"), options=asdict(options_of(materials.recipe)), images=calibration)


def _golden(job: Job, materials: Materials) -> None:
    """Golden files of the job's image size, unless they are there and of these very images."""
    import numpy as np
    import torch

    home = golden_home(materials.out, job)
    pixels = materials.evaluation(job.size).pixel_values[:_GOLDEN_IMAGES]
    if not any(sealed(file) for file in golden_files(home)):
        from edgekit.measure.golden import read_golden

        try:
            if np.array_equal(read_golden(home)[0], pixels):
                return
        except DataError:
            pass
    with torch.no_grad():
        hidden, pooled = materials.model(job.size)(torch.from_numpy(pixels))
    write_golden(home, pixels, {"last_hidden_state": hidden.numpy(), "pooler_output": pooled.numpy()})


def _write(jobs: Sequence[Job], records: dict[str, Record], materials: Materials) -> Manifest:
    """The manifest of what is finished so far; of an earlier run's other artifacts those that are still there."""
    rows = [records[job.name].row for job in jobs if job.name in records]
    others = _others(jobs, materials.out)
    rows += [record.row for record in others]
    loaded, config = materials.loaded, materials.loaded.model.config
    classes = {name: head.classes for name, head in materials.heads.items() if head.classes}
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
            **({"remarks": materials.remarks} if materials.remarks else {}),
        },
        recipe=materials.recipe.model_dump(mode="json"),
        recipe_digest=materials.recipe.digest,
        host=describe_host().model_dump(mode="json"),
        artifacts=tuple(rows),
        runs=runs_of(record.latency for record in (*records.values(), *others)),
    )
    manifest.write(materials.out)
    return manifest


def _others(jobs: Sequence[Job], out: Path) -> list[Record]:
    """Records of artifacts that these jobs do not make."""
    mine = {job.name for job in jobs}
    return [record for name, record in records_in(out).items() if name not in mine]
