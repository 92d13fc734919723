"""`edgekit build`, `export` and `quantize`: the pipeline, the whole of it or a part."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from edgekit.cli import options
from edgekit.precision import INT8

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.pipeline.run import BuildResult
    from edgekit.pipeline.stamp import Measure
    from edgekit.recipe import Recipe
    from edgekit.report.verdict import Goal, Verdict


def build(
    ctx: typer.Context,
    *,
    out: options.Out,
    model: options.Model = None,
    recipe: options.RecipeFile = None,
    format_: options.Formats = None,
    precision: options.Precisions = None,
    engine: options.Engines = None,
    input_: options.Inputs = None,
    fused_attention: options.FusedAttention = False,
    heads: options.Heads = None,
    image_size: options.Sizes = None,
    interpolation: options.Interpolation = None,
    rope_periods: options.RopePeriods = None,
    calib: options.Calib = None,
    eval_: options.Eval = None,
    samples: options.Samples = None,
    eval_samples: options.EvalSamples = None,
    seed: options.Seed = None,
    threads: options.Threads = None,
    max_drop: options.MaxDrop = None,
    optimize_for: options.OptimizeFor = None,
    recover: options.Recover = False,
    remeasure: options.Remeasure = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Build every format and precision, measure drift and latency, write report.html.

    Run it again and only what is missing is made; what OUT holds is timed together, whenever anything has changed.
    One artifact is chosen by what was measured, with --optimize-for of all precisions and quantizers, unless
    --precision and --engine name some.
    """
    from edgekit.backends.openvino.nncf import nncf_missing

    flags = dict(ctx.params)
    if optimize_for and engine is None and recipe is None and nncf_missing() is None:
        flags["engine"] = "edgekit,nncf"
    raise typer.Exit(
        _run(
            options.recipe_from(flags),
            out,
            "all",
            threads=threads,
            goal=optimize_for,
            max_drop=max_drop,
            remeasure=remeasure,
            dry_run=dry_run,
            as_json=as_json,
        )
    )


def export(
    ctx: typer.Context,
    *,
    out: options.Out,
    model: options.Model = None,
    recipe: options.RecipeFile = None,
    format_: options.Formats = None,
    precision: options.Precisions = None,
    engine: options.Engines = None,
    input_: options.Inputs = None,
    fused_attention: options.FusedAttention = False,
    heads: options.Heads = None,
    image_size: options.Sizes = None,
    interpolation: options.Interpolation = None,
    rope_periods: options.RopePeriods = None,
    calib: options.Calib = None,
    samples: options.Samples = None,
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write the artifacts and check them against the golden outputs; measure nothing else."""
    raise typer.Exit(_run(options.recipe_from(ctx.params), out, "none", dry_run=dry_run, as_json=as_json))


def quantize(
    ctx: typer.Context,
    *,
    out: options.Out,
    model: options.Model = None,
    recipe: options.RecipeFile = None,
    precision: options.Precisions = INT8,
    image_size: options.Sizes = None,
    interpolation: options.Interpolation = None,
    rope_periods: options.RopePeriods = None,
    calib: options.Calib = None,
    samples: options.Samples = None,
    seed: options.Seed = None,
    recover: options.Recover = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Make the quantization plan that every format writes out, and nothing else: OUT/plan/."""
    from edgekit.cli.show import Live, terminal
    from edgekit.pipeline import make_plans

    wanted = options.recipe_from(ctx.params)
    console = terminal(stderr=as_json)
    if dry_run:
        raise typer.Exit(_dry_run(wanted, out, console, as_json, plans_only=True))
    with Live(console) as live:
        plans = make_plans(wanted, out, watcher=live)
    if as_json:
        print(json.dumps([asdict(plan) | {"path": str(plan.path)} for plan in plans], indent=2))
        return
    for plan in plans:
        console.print(f"{plan.path}: {plan.gemms} GEMMs in integers, {len(plan.kept_float)} kept float", soft_wrap=True)
        for name, reason in (plan.kept_float | plan.promoted).items():
            console.print(f"  {name}: {reason}", soft_wrap=True)


def _run(
    recipe: Recipe,
    out: Path,
    measure: Measure,
    *,
    threads: int | None = None,
    goal: Goal | None = None,
    max_drop: float | None = None,
    remeasure: bool = False,
    dry_run: bool,
    as_json: bool,
) -> int:
    from edgekit.cli.show import Live, terminal
    from edgekit.pipeline import build, jobs_of
    from edgekit.report.verdict import Aim

    console = terminal(stderr=as_json)
    if dry_run:
        return _dry_run(recipe, out, console, as_json)
    aim = Aim(goal=goal, max_drop=max_drop) if goal else None
    with Live(console) as live:
        live.note(f"{recipe.model} -> {len(jobs_of(recipe))} artifacts in {out}")
        result = build(recipe, out, measure=measure, threads=threads, aim=aim, remeasure=remeasure, watcher=live)
    _show(result, console, as_json)
    if aim:  # the limit is what the choice must keep to, not every artifact
        return result.exit_code or (0 if result.verdict and result.verdict.choice else 3)
    return _gate(result, max_drop, console) or result.exit_code


def _dry_run(recipe: Recipe, out: Path, console: Console, as_json: bool, *, plans_only: bool = False) -> int:
    """Print what a build would do and whether its inputs allow it, without doing it."""
    from edgekit.cli.show import Live, terminal
    from edgekit.pipeline.preflight import check_request

    with Live(terminal(stderr=True)) as live:
        seen = check_request(recipe, out, plans_only=plans_only, watcher=live)
    recipe = seen.recipe
    if as_json:
        plan: dict[str, object] = {"recipe": recipe.model_dump(mode="json"), "digest": recipe.digest}
        rows = [
            {"name": job.name, "path": job.path or None, "blocked": job.blocked, "doomed": seen.doomed.get(job.name)}
            for job in seen.jobs
        ]
        plan |= {"found": seen.found}
        plan |= {"plans": seen.plans} if plans_only else {"artifacts": rows}
        print(json.dumps(plan, indent=2))
        return seen.exit_code
    calibration = recipe.calibration
    judged = "" if plans_only else f", judged on {recipe.evaluation_samples} of {recipe.evaluation}"
    console.print(
        f"recipe {recipe.digest}: {escape(recipe.model)}, calibrated on {calibration.samples} images of "
        f"{escape(calibration.source + judged)}",
        soft_wrap=True,
    )
    for name, what in seen.found.items():
        console.print(f"  {name:<24}{escape(what)}", soft_wrap=True)
    for path in seen.plans if plans_only else ():
        console.print(f"  {'plan':<24}{escape(str(out / path))}", soft_wrap=True)
    for job in () if plans_only else seen.jobs:
        verb = "not here" if job.blocked else "will fail"
        why = seen.doomed.get(job.name)
        console.print(f"  {job.name:<24}{escape(f'{verb}: {why}' if why else str(out / job.path))}", soft_wrap=True)
    return seen.exit_code


def _show(result: BuildResult, console: Console, as_json: bool) -> None:
    if as_json:
        print(
            json.dumps(
                {
                    "out": str(result.out),
                    "made": result.made,
                    "kept": result.kept,
                    "failed": result.failed,
                    "timed": result.timed,
                    "seconds": round(result.seconds, 1),
                    "report": str(result.report) if result.report else None,
                    **verdict_json(result.verdict),
                    "runs": [run.model_dump(mode="json") for run in result.manifest.runs],
                    "choice": result.manifest.choice.model_dump() if result.manifest.choice else None,
                    "artifacts": [row.model_dump(mode="json") for row in result.manifest.artifacts],
                },
                indent=2,
            )
        )
        return
    from edgekit.cli.show import heads_table
    from edgekit.report.tables import build_tables

    console.print()
    for table in build_tables(result.manifest).parts:
        console.print(table)
        console.print()
    if any((row.drift or {}).get("heads") for row in result.manifest.artifacts):
        console.print(heads_table(result.manifest.artifacts))
        console.print()
    if result.did_nothing and result.kept:
        console.print(f"nothing to do: all {len(result.kept)} artifacts are up to date ({result.seconds:.1f} s)")
    else:
        did = [f"{len(result.made)} made", f"{len(result.kept)} kept"]
        did += [f"{len(result.failed)} failed"] if result.failed else []
        did += [f"{len(result.timed)} timed together"] if result.timed else []
        did += ["report written"] if result.redrawn else []
        console.print(f"{', '.join(did)} in {result.seconds:.0f} s")
    if result.verdict:
        show_verdict(result.verdict, console)
    if result.report:
        console.print(f"report  {result.report}", soft_wrap=True)


def show_verdict(verdict: Verdict, console: Console) -> None:
    """Print what to use, whether to believe it, and what searching with it loses."""
    from rich.text import Text

    console.print(Text(verdict.sentence, "bold"))
    if verdict.retrieval:
        console.print(Text(verdict.retrieval))


def verdict_json(verdict: Verdict | None) -> dict[str, str]:
    """The sentences of a verdict, empty where nothing was measured."""
    if verdict is None:
        return {"verdict": "", "doubt": "", "retrieval": ""}
    return {"verdict": verdict.sentence, "doubt": verdict.doubt, "retrieval": verdict.retrieval}


def _gate(result: BuildResult, max_drop: float | None, console: Console) -> int:
    """3 when an artifact's class token drifts by more than the caller allows, else 0."""
    if max_drop is None:
        return 0
    over = [
        f"{row.name} drops {1 - row.drift['cls_cosine_mean']:.5f}"
        for row in result.manifest.artifacts
        if row.status == "ok" and row.drift and 1 - row.drift["cls_cosine_mean"] > max_drop
    ]
    if over:
        console.print(f"[bold red]gate[/] at most {max_drop} is allowed, but " + "; ".join(over))
    return 3 if over else 0
