"""`edgekit drift`, `bench` and `report`: what artifacts that exist already lose and cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgekit.cli import options

if TYPE_CHECKING:
    from edgekit.pipeline.timing import Timing


def drift(
    target: Annotated[Path, typer.Argument(help="An artifact, or a build folder: all of its artifacts.")],
    *,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The FP32 artifact (of the build folder).")
    ] = None,
    eval_: options.Eval = "demo",
    samples: options.EvalImages = 32,
    seed: options.Seed = 0,
    max_drop: options.MaxDrop = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Work in shards and keep them in this folder; resumable.")
    ] = None,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    threads: options.WorkerThreads = None,
    ray_address: options.RayAddress = None,
    shard_size: options.ShardSize = None,
    as_json: options.Json = False,
) -> None:
    """Measure how far an artifact's features are from the FP32 one's, on your images.

    Images that lie in a folder per class also show what k-NN and a linear probe lose. With --out any number of images
    is measured, by this process or with --engine ray by many.
    """
    from edgekit.cli.show import Live, accuracy_table, drift_table, show_shards, terminal
    from edgekit.errors import DriftExceeded, RecipeError
    from edgekit.shards import WorkerPool
    from edgekit.workflows.compare import artifacts_in, drift_between, reference_of
    from edgekit.workflows.drift import Draw, drift_in_shards

    sharded = (workers, threads, ray_address, shard_size) != (None,) * 4 or engine != "local"
    if sharded and out is None:
        raise RecipeError("engines and shards need a folder to work in", fix="--out drift")
    base = artifacts_in(reference)[0] if reference else reference_of(target)
    candidates = [a for a in artifacts_in(target) if a.path.resolve() != base.path.resolve()]
    candidates = [a for a in candidates if a.preprocess.input_size == base.preprocess.input_size] or candidates
    ran = None
    with Live(terminal(stderr=True)) as live:
        if out is None:
            reports = drift_between(base, candidates, eval_ or "demo", samples=samples, seed=seed or 0, watcher=live)
        else:
            pool = WorkerPool(engine=engine, workers=workers, threads=threads, address=ray_address)
            reports, ran = drift_in_shards(
                base,
                candidates,
                eval_ or "demo",
                out,
                pool,
                draw=Draw(samples, seed or 0),
                shard_size=shard_size,
                watcher=live,
            )
    if ran is not None and out is not None:
        show_shards(terminal(stderr=as_json), out, f"against {base.name}", ran)
    over = [name for name, report in reports.items() if max_drop is not None and 1 - report.cls_cosine.mean > max_drop]
    if as_json:
        print(json.dumps({name: report.model_dump(mode="json") for name, report in reports.items()}, indent=2))
        if over:
            raise typer.Exit(DriftExceeded.exit_code)
        return
    terminal().print(drift_table(reports))
    if any(report.accuracy for report in reports.values()):
        terminal().print(accuracy_table(reports))
    if over:
        drops = ", ".join(f"{name} drops {1 - reports[name].cls_cosine.mean:.5f}" for name in over)
        raise DriftExceeded(drops, why=f"at most {max_drop} is allowed")


def bench(
    targets: Annotated[list[Path], typer.Argument(help="Artifacts or build folders.")],
    *,
    threads: options.Threads = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per call.")] = 1,
    hint: Annotated[
        Literal["latency", "throughput"],
        typer.Option(help="Of OpenVINO: throughput spreads a batch over parallel streams."),
    ] = "latency",
    rounds: Annotated[int, typer.Option("--rounds", min=3, help="How often each is visited.")] = 10,
    seed: options.Seed = 0,
    save: Annotated[
        bool, typer.Option("--save", help="Of a build folder: put the times in its manifest and report; choose anew.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Latency, throughput and memory of artifacts on this machine, each in its own process, measured in turns."""
    from edgekit.cli.show import Live, latency_table, terminal
    from edgekit.workflows.compare import artifacts_in, latency_of

    if save:
        from edgekit.errors import RecipeError
        from edgekit.pipeline.timing import Timing

        if batch != 1 or hint != "latency":
            raise RecipeError(
                "--save keeps what a build measures",
                why="that is the latency of one image a call",
                fix="edgekit bench OUT --save",
            )
        _time_again(targets, Timing(threads=threads, rounds=rounds, seed=seed or 0), as_json)
        return
    artifacts = [artifact for target in targets for artifact in artifacts_in(target)]
    main = artifacts[0].preprocess.input_size
    artifacts = [artifact for artifact in artifacts if artifact.preprocess.input_size == main]
    with Live(terminal(stderr=True)) as live:
        run = latency_of(
            artifacts, batch=batch, threads=threads, rounds=rounds, seed=seed or 0, hint=hint, watcher=live
        )
    if as_json:
        print(run.model_dump_json(indent=2))
    else:
        terminal().print(latency_table(run))
    if not run.reports:
        raise typer.Exit(1)


def _time_again(targets: list[Path], timing: Timing, as_json: bool) -> None:
    """Time build folders and save it."""
    from edgekit.cli.build import show_verdict, verdict_json
    from edgekit.cli.show import Live, terminal
    from edgekit.pipeline.remeasure import remeasure
    from edgekit.report.tables import build_tables

    told = []
    for out in targets:
        with Live(terminal(stderr=True)) as live:
            done = remeasure(out, timing, live)
        page = str(done.report) if done.report else None
        told.append(
            {
                "out": str(out),
                "timed": done.timed,
                "report": page,
                **verdict_json(done.verdict),
                "artifacts": [row.model_dump(mode="json") for row in done.manifest.artifacts],
            }
        )
        if not as_json:
            for table in build_tables(done.manifest).parts:
                terminal().print(table)
            show_verdict(done.verdict, terminal())
            print(f"report  {page}" if page else f"no report in {out} to put them in: edgekit build --out {out}")
    if as_json:
        print(json.dumps(told, indent=2))
    if not all(each["timed"] for each in told):
        raise typer.Exit(1)


def report(
    out: Annotated[Path, typer.Argument(help="A build folder.")],
    *,
    optimize_for: options.OptimizeFor = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0, max=1, help="What the verdict may choose: largest 1 - class-token cosine.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="An earlier build folder: what changed since.")] = None,
    as_json: options.Json = False,
) -> None:
    """Draw report.html again: for another aim, beside an earlier build, or with what `edgekit explain` found."""
    from edgekit.report import redraw

    sentence = ""
    if against is not None:
        _compare_first(out, against)
    if optimize_for is not None or max_drop is not None:
        from edgekit.pipeline.choose import choose_again
        from edgekit.report.verdict import Aim

        sentence = choose_again(out, Aim(goal=optimize_for or "latency", max_drop=max_drop)).sentence
    page, verdict = redraw(out, against=against)
    if as_json:
        changed = _changes(out, against) if against else None
        print(
            json.dumps({"report": str(page), "verdict": verdict.model_dump(mode="json"), "changes": changed}, indent=2)
        )
        return
    if sentence:
        typer.echo(sentence)
    print(page)


def _compare_first(out: Path, against: Path) -> None:
    """Raises DataError when two builds cannot stand beside each other, before anything is written."""
    from edgekit.report.changes import refuse_incomparable
    from edgekit.report.content import BuildReport

    refuse_incomparable(*(BuildReport.read_json(folder / "report.json") for folder in (against, out)))


def _changes(out: Path, against: Path) -> list[dict[str, object]]:
    """Rows of the page for each artifact, then and now."""
    from dataclasses import asdict

    from edgekit.report.changes import changes
    from edgekit.report.content import BuildReport

    before, now = (BuildReport.read_json(folder / "report.json") for folder in (against, out))
    return [asdict(change) for change in changes(before, now)]
