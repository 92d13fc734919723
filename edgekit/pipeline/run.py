"""Runs a recipe: makes what is missing, keeps what is finished, and writes the manifest after every artifact."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import __version__
from edgekit.artifact import ArtifactRow, Manifest
from edgekit.errors import DataError, RecipeError
from edgekit.measure.golden import FOLDER as GOLDEN
from edgekit.measure.golden import INPUTS, OUTPUTS, write_golden
from edgekit.measure.host import describe_host
from edgekit.pipeline.context import Materials
from edgekit.pipeline.folder import held
from edgekit.pipeline.jobs import Job, jobs_of
from edgekit.pipeline.make import golden_home, make
from edgekit.pipeline.records import FOLDER as RECORDS
from edgekit.pipeline.records import Record, digest_of, read_record
from edgekit.pipeline.stamp import Measure, Request, finished, mark_finished, tools_of
from edgekit.pipeline.timing import timed
from edgekit.pipeline.watch import Silent, Watcher
from edgekit.recipe import CoreMlRecipe, Recipe

if TYPE_CHECKING:
    from edgekit.models.zoo import LoadedModel
    from edgekit.report.verdict import Aim, Verdict

_GOLDEN_IMAGES = 4


@dataclass(frozen=True)
class BuildResult:
    """What a build did. `kept` and `made` name artifacts; `report` is the page, None when none was asked for."""

    out: Path
    manifest: Manifest
    kept: tuple[str, ...]
    made: tuple[str, ...]
    report: Path | None
    verdict: Verdict | None  # None when nothing was to be measured
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 when something was built and no FP32 artifact failed, else 1."""
        rows = self.manifest.artifacts
        fp32_failed = any(row.precision == "fp32" and row.status == "failed" for row in rows)
        return int(fp32_failed or not any(row.status == "ok" for row in rows))


def build(
    recipe: Recipe,
    out: Path | str,
    *,
    measure: Measure = "all",
    threads: int | None = None,
    aim: Aim | None = None,
    watcher: Watcher | None = None,
) -> BuildResult:
    """Build every artifact of a recipe into `out`.

    Finished artifacts of an earlier run are kept when nothing that decides them has changed: checkpoint, calibration
    images, quantization steps, image size, package versions. Artifacts of the same model that this recipe does not
    name stay listed in the manifest.

    Args:
        recipe: what to build.
        out: the build folder, see the contract in docs/quickstart.md.
        measure: drift and latency, drift alone, or neither.
        threads: of each runtime while latency is measured; None leaves it to the runtime.
        aim: choose among the artifacts for this, and record the choice in the manifest.
        watcher: told what happens.

    Raises:
        RecipeError: unknown model or impossible request.
        DataError: images or checkpoint cannot be read, `out` cannot be written or holds another model.
        BackendMissing: torch is not installed.
    """

    start, out, watcher = time.monotonic(), Path(out), watcher or Silent()
    watcher.stage("look for backends and fused ops")  # the latter are compiled on first use
    request = Request(recipe, jobs_of(recipe), out, measure, threads, aim)
    if manifest := finished(request):
        return _nothing_done(request, manifest, time.monotonic() - start)
    _known(recipe.model)
    with held(out):
        result = _build(request, watcher)
    return replace(result, seconds=time.monotonic() - start)


def _build(request: Request, watcher: Watcher) -> BuildResult:
    from edgekit.models import zoo

    jobs, out, measure = request.jobs, request.out, request.measure
    watcher.stage(f"load {request.recipe.model}")
    loaded = zoo.load(request.recipe.model, notify=watcher.note)
    _refuse_other_model(out, loaded)
    materials = Materials(request.recipe, loaded, out, watcher)
    records, kept = _artifacts(jobs, materials, measure, watcher)
    if measure == "all":
        records = timed(jobs, records, materials, request.threads, watcher)
    manifest = _write(jobs, records, materials)
    names = [job.name for job in jobs if records[job.name].row.status == "ok"]
    report, verdict = None, None
    if measure != "none":
        from edgekit.pipeline.reporting import report_build

        changed = any(name not in kept for name in names)
        report, verdict = report_build(
            jobs, records, manifest, materials, aim=request.aim, changed=changed, watcher=watcher
        )
        if request.aim:
            manifest = manifest.model_copy(update={"choice": verdict.recorded()})
            manifest.write(out)
    if not any(record.row.status == "failed" for record in records.values()):
        mark_finished(request)
    made = tuple(name for name in names if name not in kept)
    return BuildResult(out, manifest, tuple(name for name in names if name in kept), made, report, verdict, 0.0)


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
    jobs = [job for job in jobs_of(recipe) if job.integer and job.path]  # also those whose runtime is not here
    if not jobs:
        raise RecipeError("no integer precision to plan", fix="--precision w8a8")
    _known(recipe.model)
    with held(out):
        materials = Materials(recipe, zoo.load(recipe.model, notify=watcher.note), out, watcher)
        found = []
        for size, kind in sorted({(job.size, materials.plan_kind(job)) for job in jobs}):
            plan = materials.plan(size, kind)
            found.append(PlanSummary(materials.plan_path(size, kind), len(plan.gemms), plan.kept_float, plan.promoted))
    return tuple(found)


def _known(model: str) -> None:
    """Refuse an unknown model before any folder is made."""
    from edgekit.models.zoo import find

    if not Path(model).expanduser().exists():
        find(model)


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
            else:
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
        **({"heads": materials.heads_key()} if recipe.heads else {}),
        **({"head_plan": materials.head_plan_key(job.size)} if materials.has_head_plan(job) else {}),
        **({"coreml": recipe.coreml.model_dump()} if _other_package(job, recipe) else {}),
    )
    if measure == "none":
        return key, ""
    images = materials.evaluation(job.size)
    return key, digest_of(images=images.digest, seed=recipe.seed, heads=sorted(materials.loaded.heads))


def _other_package(job: Job, recipe: Recipe) -> bool:
    """Whether it is a Core ML package written in another way than by default."""
    return job.format == "coreml" and recipe.coreml != CoreMlRecipe()


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
    if all((home / GOLDEN / file).exists() for file in (INPUTS, OUTPUTS)):
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
    mine = {job.name for job in jobs}
    rows += [row for row in _others(materials.out) if row.name not in mine]
    loaded, config = materials.loaded, materials.loaded.model.config
    manifest = Manifest(
        model={
            "name": loaded.name,
            "source": loaded.source,
            "licence": loaded.licence,
            "origin": loaded.origin,
            "sha256": loaded.sha256,
            "heads": sorted(loaded.heads),
            "config": asdict(config),
        },
        recipe=materials.recipe.model_dump(mode="json"),
        recipe_digest=materials.recipe.digest,
        host=describe_host().model_dump(mode="json"),
        artifacts=tuple(rows),
    )
    manifest.write(materials.out)
    return manifest


def _others(out: Path) -> list[ArtifactRow]:
    """Rows of all records whose file is still there."""
    found = []
    for path in sorted((out / RECORDS).glob("*.json")):
        record = read_record(out, path.stem.replace("_", "/", 1))
        if record and record.row.status == "ok" and record.row.path and (out / record.row.path).exists():
            found.append(record.row)
    return found


def _refuse_other_model(out: Path, loaded: LoadedModel) -> None:
    if not (out / "manifest.json").exists():
        return
    other = Manifest.read(out).model
    if other.get("sha256") != loaded.sha256:
        raise DataError(
            f"{out} holds a build of {other.get('name')}, not of {loaded.name}",
            why="a build folder belongs to one checkpoint",
            fix="--out ANOTHER_FOLDER",
        )
