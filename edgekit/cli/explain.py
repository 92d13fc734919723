"""`edgekit explain`: where a plan's drift comes from, as a table and for the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.quantization.explanation import Explanation


def explain(
    target: Annotated[Path, typer.Argument(help="A build folder, or a plan (OUT/plan/int8.safetensors).")],
    *,
    eval_: options.Eval = "demo",
    samples: options.EvalImages = 8,
    seed: options.Seed = 0,
    steps: Annotated[
        bool, typer.Option("--steps", help="Quantize again without each step (of a build folder; takes minutes).")
    ] = False,
    saturation: Annotated[
        bool, typer.Option(help="Also run the plan as a CPU that saturates would; takes a minute.")
    ] = True,
    top: Annotated[int, typer.Option("--top", min=1, help="Rows of the table.")] = 12,
    as_json: options.Json = False,
) -> None:
    """Explain where the drift comes from: layer, tensor, outlier channels and tokens, and what each rewrite brought."""
    from edgekit.cli.show import Live, terminal
    from edgekit.workflows.explain import explain_target

    with Live(terminal(stderr=True)) as live:
        found = explain_target(
            target, eval_ or "demo", samples=samples, seed=seed or 0, steps=steps, saturation=saturation, watcher=live
        )
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        _show(found, terminal(), top)


def _show(found: Explanation, console: Console, top: int) -> None:
    from rich.table import Table

    from edgekit.cpu import cpu_saturates

    inputs = "inputs stay float" if found.inputs_only_db is None else f"inputs alone {found.inputs_only_db:.1f}"
    console.print(
        f"[bold]{found.whole_db:.1f} dB[/] over {found.images} images: weights alone {found.weights_only_db:.1f}, "
        f"{inputs}; with a range per token {found.per_token_db:.1f}"
    )
    if found.saturating_db is not None:
        here = "this CPU is one" if cpu_saturates() else "this CPU is none"
        console.print(f"a CPU whose u8*s8 products saturate would leave {found.saturating_db:.1f} dB ({here})")
    table = Table("GEMM alone", "SQNR dB", "noise %", "input", "peak", "at", "peak/median", "before", "alpha")
    for row in found.gemms[:top]:
        at = "" if row.peak_channel is None else f"channel {row.peak_channel}, {row.peak_token}"
        table.add_row(
            row.name,
            f"{row.sqnr_db:.1f}",
            f"{100 * row.noise_share:.1f}",
            row.input_kind,
            *("" if v is None else f"{v:.1f}" for v in (row.input_peak,)),
            at,
            *("" if v is None else f"{v:.1f}" for v in (row.peak_over_median, row.before)),
            "" if row.alpha is None else f"{row.alpha:g}",
        )
    console.print(table)
    table = Table("behind block", "all dB", "class", "registers", "patches")
    for block in found.blocks:
        registers = "" if block.register_db is None else f"{block.register_db:.1f}"
        table.add_row(
            str(block.block), f"{block.all_db:.1f}", f"{block.class_db:.1f}", registers, f"{block.patch_db:.1f}"
        )
    console.print(table)
    for name, reason in found.kept_float.items():
        console.print(f"kept float  {name}: {reason}")
    for name, reason in found.promoted.items():
        console.print(f"8 bits  {name}: {reason}")
    if found.steps:
        base = found.steps["as it is"]["sqnr_db"]
        table = Table("recipe", "SQNR dB", "change", "CLS cosine", "per token dB")
        for name, row_ in found.steps.items():
            table.add_row(
                name,
                f"{row_['sqnr_db']:.2f}",
                f"{row_['sqnr_db'] - base:+.2f}",
                f"{row_['cls_cosine']:.5f}",
                f"{row_['per_token_sqnr_db']:.2f}",
            )
        console.print(table)
