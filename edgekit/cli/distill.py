"""`edgekit distill`: smaller students of a model, trained on a folder of images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgekit.cli import options
from edgekit.distill.recipe import Augment, DistillRecipe, Precision

if TYPE_CHECKING:
    from rich.table import Table

    from edgekit.workflows.distill import Distilled


def distill(
    *,
    teacher: Annotated[str, typer.Option("--teacher", help="A name of `edgekit models`, or a checkpoint.")] = "demo",
    student: Annotated[
        list[str],
        typer.Option(
            "--student",
            help="An architecture, a .toml or .json file, or words: depth=6,registers=4. Repeat it for several.",
        ),
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of images, nested or not; labels are not needed.")],
    out: Annotated[Path, typer.Option("--out", help="New folder, or that of a run to go on with.")],
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A .toml of settings; flags override its.")] = None,
    copies: Annotated[int | None, typer.Option("--copies", min=1, help="Students of each architecture (2).")] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Of the crops, as the teacher sees them: whole patches.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Of the optimizer (2000).")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images per step of all processes (32).")] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Highest learning rate from end to end (0.0003).")
    ] = None,
    ema: Annotated[float | None, typer.Option("--ema", help="Decay of the moving average (0.998).")] = None,
    augment: Annotated[Augment | None, typer.Option(help="Of the crops, which teacher and students share.")] = None,
    held_out: Annotated[float | None, typer.Option("--held-out", help="Share of the images that judges (0.1).")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Of matrix products; auto is float32 on CPUs.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of torch on the CPU.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints (200).")] = None,
    judge_every: Annotated[int | None, typer.Option(min=1, help="Steps between judgements (500).")] = None,
    log_every: Annotated[int | None, typer.Option(min=1, help="Steps between rows of log.csv (10).")] = None,
    tensorboard: Annotated[
        Literal["auto", "on", "off"], typer.Option(help="Event files beside log.csv; auto: if it is installed.")
    ] = "auto",
    keep: Annotated[
        Literal["graduates", "all"], typer.Option(help="all: every student and average as a file, too.")
    ] = "graduates",
    seed: options.Seed = None,
    as_json: options.Json = False,
) -> None:
    """Students that give the teacher's features; run it again to go on after a kill, under torchrun on many machines.

    The graduate is the average of the students' weights, or their moving average, whichever the held-out images prefer;
    with --copies 1 there is one student, and it or its moving average graduates.
    """
    from edgekit.cli.show import Live, terminal
    from edgekit.workflows.distill import Running, distil_folder

    given = {
        "copies": copies,
        "image_size": image_size,
        "steps": steps,
        "batch": batch,
        "rate": rate,
        "ema": ema,
        "augment": augment,
        "held_out": held_out,
        "precision": precision,
        "checkpoint_every": checkpoint_every,
        "judge_every": judge_every,
        "log_every": log_every,
        "seed": seed,
    }
    base = DistillRecipe.from_toml(recipe) if recipe else DistillRecipe()
    settings = DistillRecipe.make(base.model_dump() | {key: value for key, value in given.items() if value is not None})
    with Live(terminal(stderr=True)) as live:
        running = Running(device, tensorboard, threads, keep)
        outcome = distil_folder(teacher, student, data, out, settings, running, live)
    if outcome is None:  # one of torchrun's other processes
        return
    done = outcome.distilled
    if as_json:
        print(done.model_dump_json(indent=2))
        return
    console = terminal()
    console.print(
        f"{done.teacher} on {done.training_images} images, judged on {done.held_out_images} others"
        + (f"; {len(done.skipped)} cannot be read: {', '.join(done.skipped[:3])}" if done.skipped else ""),
        soft_wrap=True,
    )
    console.print(_table(done))
    for row in done.graduates:
        if row.kind.startswith("student"):
            apart = (
                "the students have moved too far apart to be averaged"
                if done.recipe.copies > 1
                else "its moving average is worse than the student itself"
            )
            console.print(f"[yellow]{row.name}: {apart}; {_said(row.kind, done)} was taken[/]", soft_wrap=True)
        console.print(f"edgekit build --model {out / row.file} --out OUT", soft_wrap=True)


def _said(member: str, done: Distilled) -> str:
    """A member's name as people read it: an only student has no number."""
    return "the student" if member == "student 1" and done.recipe.copies == 1 else member


def _table(done: Distilled) -> Table:
    """Every member of every group; the graduate is marked."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("student", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name in ("parameters", "CLS cosine", "patch cosine", "loss"):
        table.add_column(name, justify="right")
    for row in done.graduates:
        for name, score in row.scores.items():
            taken = name == row.kind
            said = _said(name, done) + (" (graduate)" if taken else "")
            table.add_row(
                row.name,
                said,
                f"{row.parameters / 1e6:.1f} M" if taken else "",
                f"{score.cls_cosine:.4f}",
                f"{score.patch_cosine:.4f}",
                f"{score.loss:.4f}",
                style="bold" if taken else None,
            )
    return table
