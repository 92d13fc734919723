"""`edgekit check`: the gate that a build must pass, for a shell or for continuous integration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import options

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow"}


def check(
    out: Annotated[Path, typer.Argument(help="A build folder.")],
    *,
    max_cosine_drop: Annotated[
        float | None, typer.Option(min=0, max=2, help="Largest 1 - mean class-token cosine of a quantized artifact.")
    ] = None,
    max_neighbour_drop: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest share of images whose nearest neighbour changed.")
    ] = None,
    max_knn_drop: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest drop of k-NN accuracy, on labelled --eval images.")
    ] = None,
    max_p50_ms: Annotated[
        float | None, typer.Option(min=0, help="Largest median latency of a quantized artifact.")
    ] = None,
    max_head_drop: Annotated[
        list[str] | None,
        typer.Option(
            "--max-head-drop",
            metavar="NAME=VALUE",
            help="Largest drift of a head (repeatable): 1 - agreement, 1 - mIoU, RMSE in m, or MAE.",
        ),
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="manifest.json of an earlier build, or its folder.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write the checks as JUnit XML.")] = None,
    as_json: options.Json = False,
) -> None:
    """Exit 3 when an artifact is damaged, drifts or costs too much, or has fallen behind a baseline."""
    from rich.table import Table
    from rich.text import Text

    from edgekit.cli.show import terminal
    from edgekit.errors import DriftExceeded
    from edgekit.measure.gate import Limits, check_build, write_junit

    limits = Limits(
        cosine_drop=max_cosine_drop,
        neighbour_drop=max_neighbour_drop,
        knn_drop=max_knn_drop,
        p50_ms=max_p50_ms,
        head_drops=_heads(max_head_drop or []),
    )
    checks = check_build(out, limits, baseline=baseline)
    if junit is not None:
        write_junit(checks, junit)
    failed = [check for check in checks if check.outcome == "failed"]
    if as_json:
        print(json.dumps({"passed": not failed, "checks": [c.model_dump() for c in checks]}, indent=2))
        if failed:
            raise typer.Exit(DriftExceeded.exit_code)
        return
    table = Table("artifact", "check", "outcome", "reason", box=None, header_style="bold", pad_edge=False)
    for one in checks:
        table.add_row(one.artifact, one.name, Text(one.outcome, _COLOURS[one.outcome]), Text(one.reason))
    terminal().print(table)
    if failed:
        raise DriftExceeded(
            f"{len(failed)} of {len(checks)} checks failed",
            why="; ".join(f"{c.artifact} {c.name}: {c.reason}" for c in failed),
        )


def _heads(words: list[str]) -> dict[str, float]:
    """["cls=0.02"] -> {"cls": 0.02}."""
    import math

    from edgekit.errors import RecipeError

    limits: dict[str, float] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            limits[name] = math.nan
        if not name or not limits[name] >= 0:
            raise RecipeError(
                f"--max-head-drop {word!r} is not NAME=VALUE",
                why="a head's name and a number from 0",
                fix="--max-head-drop depth=0.05",
            )
    return limits
