"""`edgekit doctor`: what this machine can do, and the command that adds what it cannot."""

from __future__ import annotations

from edgekit.cli import options


def doctor(*, as_json: options.Json = False) -> None:
    """List what is installed, which instruction sets there are, and what each backend can do here."""
    from edgekit.workflows.doctor import examine

    health = examine()
    if as_json:
        print(health.model_dump_json(indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    from edgekit.cli.show import terminal
    from edgekit.cpu import cpu_saturates

    console = terminal()
    host = health.host
    console.print(
        f"{host.cpu}, {host.cores_usable} of {host.cores} cores, {host.ram_gb} GB, {host.os}, Python {host.python}"
    )
    console.print(f"instruction sets: {', '.join(host.isa) or 'none that matter here'}")
    if cpu_saturates():
        console.print("[yellow]u8*s8 products saturate on this CPU: edgekit uses exact weights or 7 bits here[/]")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "export", "run"):
        table.add_column(name, overflow="fold")
    for check in health.backends:
        problems = (check.export, check.run)
        words = (f"[yellow]{escape(why)}[/]" if (why := problem) else "[green]yes[/]" for problem in problems)
        table.add_row(check.name, *words)
    console.print(table)
    for part in health.parts:
        console.print(
            f"{'[green]yes[/]' if part.problem is None else '[yellow]no [/]'} {part.name}"
            + (f": {escape(part.problem)}" if part.problem else ""),
            soft_wrap=True,
        )
