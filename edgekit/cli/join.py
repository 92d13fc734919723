"""`edgekit join`: several image sizes in one Core ML package, which holds their weights once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import options
from edgekit.precision import Precision


def join(
    build: Annotated[Path, typer.Argument(metavar="OUT", help="A build folder.")],
    *,
    to: Annotated[Path, typer.Option("--to", help="The package to write, an .mlpackage.")],
    sizes: Annotated[
        str, typer.Option("--image-size", help="Two or more, 224,518 or 224x308,...; the first runs unasked.")
    ],
    precision: Annotated[Precision, typer.Option(help="Of its weights and inputs.")] = "fp16",
    samples: options.EvalImages = 4,
    as_json: options.Json = False,
) -> None:
    """One Core ML package with a function per image size (iOS 18, macOS 15), proved against the float model."""
    import json

    from rich.table import Table

    from edgekit.backends.coreml.package import function_of
    from edgekit.cli.show import Live, terminal
    from edgekit.workflows.join import join_sizes

    with Live(terminal(stderr=True)) as live:
        joined = join_sizes(
            build, to, precision=precision, sizes=options.sizes_of(sizes), samples=samples, watcher=live
        )
    first = joined[0].artifact
    rows = [{"function": function_of(each.artifact.preprocess.input_size), **each.drift.summary()} for each in joined]
    if as_json:
        print(json.dumps({"path": str(to), "size_mb": first.size_mb, "notes": first.notes, "functions": rows}))
        return
    terminal().print(f"{to}: {first.notes[-1]}")
    table = Table("function", "class token cosine", "patch cosine", "SQNR dB", "images")
    for row in rows:
        table.add_row(
            str(row["function"]),
            f"{row['cls_cosine_mean']:.6f}",
            f"{row['patch_cosine_mean']:.6f}",
            f"{row['sqnr_db']:.1f}",
            str(row["n"]),
        )
    terminal().print(table)
