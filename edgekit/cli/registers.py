"""`edgekit registers`: is the register variant worth its tokens for your images?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from edgekit.measure.registers.comparison import RegistersReport


def registers(
    a: Annotated[str, typer.Argument(help="A name of `edgekit models` or a checkpoint, usually without registers.")],
    b: Annotated[str, typer.Argument(help="The other, usually with registers.")],
    *,
    images: Annotated[str, typer.Option("--images", help="A folder of images, or `demo`.")] = "demo",
    out: Annotated[Path, typer.Option("--out", help="The folder for registers.html and .json.")] = Path("registers"),
    image_size: Annotated[int, typer.Option("--image-size", help="A multiple of the patch.")] = 224,
    samples: Annotated[int, typer.Option("--samples", min=1, help="At most this many images.")] = 32,
    boxes: Annotated[
        Path | None, typer.Option("--boxes", help="JSON of true boxes, {path: [[left, top, right, bottom]]}: CorLoc.")
    ] = None,
    cutoff: Annotated[float | None, typer.Option(help="Norm of an outlier (of each model's own spread).")] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=0, help="Of timing; 0 times nothing.")] = 6,
    show: Annotated[int, typer.Option("--show", min=1, help="How many images get pictures.")] = 12,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Outlier tokens, attention, parts and discovered objects of two checkpoints, against what the tokens cost."""
    from edgekit.cli.show import Live, terminal
    from edgekit.report.registers import write_registers
    from edgekit.workflows.registers import Options, compare_registers

    size = options.sizes_of(str(image_size))[0][0]
    with Live(terminal(stderr=True)) as live:
        settings = Options(size, samples, boxes, cutoff, rounds, threads)
        report, looked, shown = compare_registers(a, b, images, settings, progress=live.stage)
    page = write_registers(report, looked, shown, out, show)
    if as_json:
        print(report.model_dump_json(indent=2))
        return
    terminal().print(_table(report))
    for side in (report.a, report.b):
        if side.unstable:
            print(f"time of {side.name} in doubt: {side.unstable}")
    print(f"{report.sentence}\n{page}")


def _table(report: RegistersReport) -> Table:
    """One row per model; dashes for what was not measured."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("model", no_wrap=True)
    for name in ("registers", "tokens", "outliers", "cutoff", "largest norm", "CorLoc", "saliency IoU", "p50 ms"):
        table.add_column(name, justify="right")
    for side in (report.a, report.b):
        table.add_row(
            side.name,
            str(side.registers),
            str(side.tokens),
            f"{100 * side.norms.outlier_share:.2f} %",
            f"{side.norms.threshold:.1f}",
            f"{side.norms.maximum:.1f}",
            "-" if side.corloc is None else f"{100 * side.corloc:.0f} %",
            "-" if side.salient_iou is None else f"{side.salient_iou:.2f}",
            "-" if side.p50_ms is None else f"{side.p50_ms:.1f}",
        )
    return table
