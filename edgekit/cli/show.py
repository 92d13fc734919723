"""Output of a build in a terminal: a progress line while it runs, a table when it is done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.errors import MarkupError
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from edgekit.cli.verbosity import level
from edgekit.manifest import ArtifactRow
from edgekit.measure.drift import DriftReport
from edgekit.measure.latency import LatencyRun
from edgekit.measure.ratio import ratio
from edgekit.measure.retrieval import Retrieval
from edgekit.pipeline.watch import Fate, Watcher
from edgekit.progress import Schedule, Step, words
from edgekit.report.numbers import timing
from edgekit.report.tables import STATUS_COLOURS

if TYPE_CHECKING:
    from edgekit.shards import Ran

_PIPE_WIDTH = 140  # columns where there is no terminal to ask
_SILENCE_S = 30.0  # after which a log gets another line
_FAILURES = 10  # images named that could not be used


class _Console(Console):
    """A console to which text that is no markup ("[/bold]" in a file name) is plain text."""

    @override
    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]
        try:
            return super().render_str(text, **options)
        except MarkupError:
            return super().render_str(text, **{**options, "markup": False})


def terminal(*, stderr: bool = False) -> Console:
    """Console of a command: as wide as the terminal, or wide enough for every table in a pipe or a log."""
    console = _Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


class Live(Watcher):
    """A Watcher that draws: one moving line with an estimate of the time left, and a permanent one per finished row.

    Without a terminal nothing moves: each step, and each stage where no steps are known, leaves a line when it begins,
    and one that takes long another every half minute. The flags -q and -v leave out and add lines.
    """

    def __init__(self, console: Console, schedule: Schedule | None = None) -> None:
        self._console, self._level = console, level()
        self._schedule = schedule or Schedule()
        self._moving = console.is_terminal and self._level != "quiet"
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            _Time(self._schedule),
            console=console,
            transient=True,
            disable=not self._moving,
        )
        self._task = self._progress.add_task("", total=None)
        self._step = self._kind = ""
        self._said = 0.0  # seconds at which the last line was left

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @override
    def plan(self, steps: Sequence[Step]) -> None:
        self._schedule.plan(steps)

    @override
    def step(self, name: str) -> None:
        self._schedule.begin(name)
        self._step = self._kind = name
        self._progress.update(self._task, description=self._described(name), completed=0, total=None)
        if not self._moving or self._level == "verbose":
            self._line(name, self._schedule.left)

    @override
    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        self._schedule.at(name, done, total)
        self._progress.update(self._task, description=self._described(name), completed=done, total=total or None)
        kind = name if self._level == "verbose" else re.sub(r"\d+", "#", name.partition(":")[0])
        fresh = kind != self._kind and not (self._step and name == self._step)
        self._kind = kind
        late = not self._moving and self._schedule.elapsed - self._said >= _SILENCE_S
        if late or (fresh and (not self._moving or self._level == "verbose")):
            counted = f"{name}  {done} of {total}" if total and done else name
            self._line(counted, self._schedule.stage_left if done else None, stage=True)

    @override
    def finished(self, row: ArtifactRow, fate: Fate) -> None:
        if self._level == "quiet":
            return
        self._said = self._schedule.elapsed
        self._console.print(
            Text.assemble(
                (f"{row.status:>8}  ", STATUS_COLOURS[row.status]),
                f"{row.name:<22}",
                f"{row.size_mb:8.1f} MB" if row.size_mb is not None else "",
                "  kept" if fate == "kept" else "",
                f"  {row.reason}" if row.reason else "",
            ),
            soft_wrap=True,
        )

    @override
    def note(self, text: str) -> None:
        if self._level == "quiet":
            return
        self._said = self._schedule.elapsed
        self._console.print(Text(f"          {text}", "dim"), soft_wrap=True)

    def _line(self, text: str, left: float | None, *, stage: bool = False) -> None:
        position = None if stage else self._schedule.position
        self.note(f"{text}  ({words(position, self._schedule.elapsed, left)})")

    def _described(self, name: str) -> str:
        position = self._schedule.position
        text = f"{position[0]} of {position[1]}  {name}" if position and self._step else name
        return escape(text)


class _Time(ProgressColumn):
    """Elapsed time and the estimate of what is left, drawn anew as time goes by."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self._schedule = schedule

    def render(self, task: Task) -> Text:
        """One column for both."""
        return Text(words(None, self._schedule.elapsed, self._schedule.left), "progress.elapsed")


def show_shards(console: Console, out: Path, what: str, ran: Ran) -> None:
    """Print how much is there, how much of it was before, and which images could not be used."""
    kept = f", {ran.kept} of them kept" if ran.kept else ""
    stale = f", {ran.stale} made again: they were of another model or other images" if ran.stale else ""
    console.print(f"{out}: {ran.images} images in {len(ran.shards)} shards{kept}{stale}, {what}", soft_wrap=True)
    if ran.workers:
        peaks = ", ".join(f"{peak:.0f} MB at most in {worker}" for worker, peak in ran.workers.items())
        console.print(Text(f"  {ran.cpu_s:.1f} s of CPU time; {peaks}", "dim"), soft_wrap=True)
    failures = ran.failures
    for failure in failures[:_FAILURES]:
        console.print(Text(f"  skipped {failure.path}: {failure.reason}", "yellow"), soft_wrap=True)
    if len(failures) > _FAILURES:
        rest = f"  and {len(failures) - _FAILURES} more: {out / 'failures.csv'}"
        console.print(Text(rest, "yellow"), soft_wrap=True)


def heads_table(rows: Sequence[ArtifactRow]) -> Table:
    """Each head's output against the float model's in torch, in its task's unit, with the 95 % interval."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("artifact", "head", "measure"):
        table.add_column(name, no_wrap=True)
    for name in ("value", "95 %"):
        table.add_column(name, justify="right")
    for row in rows:
        for head, found in (row.drift or {}).get("heads", {}).items():
            measure = f"{found['measure']} {found['unit']}".rstrip()
            table.add_row(
                row.name, head, measure, f"{found['value']:.4f}", f"{found['low']:.4f} to {found['high']:.4f}"
            )
    return table


def drift_table(reports: Mapping[str, DriftReport]) -> Table:
    """The drift of each artifact, with what the few images leave open."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("artifact", no_wrap=True)
    for name in ("SQNR dB", "CLS cosine", "worst image", "patch cosine", "centred", "own gallery", "FP32 gallery"):
        table.add_column(name, justify="right")
    table.add_column("near ties", justify="right")
    table.add_column("grade", no_wrap=True)
    table.caption = "Galleries: images that find the same nearest neighbour; near ties: lost ones that are as near."
    table.caption_justify = "left"
    for name, report in reports.items():
        centred = report.centred_patch_cosine.mean
        table.add_row(
            name,
            f"{report.sqnr_db.value:.1f}",
            f"{report.cls_cosine.mean:.5f}",
            f"{report.cls_cosine.min:.5f}",
            f"{report.patch_cosine.mean:.5f}",
            f"{centred:.5f}",
            _agreement(report.own),
            _agreement(report.mixed),
            f"{report.own.near_ties} of {report.own.changed}",
            report.grade,
        )
    return table


def _agreement(found: Retrieval) -> str:
    rate = found.nn_agreement
    return f"too few ({rate.n})" if rate.value is None else f"{rate.value:.0%}"


def accuracy_table(reports: Mapping[str, DriftReport]) -> Table:
    """k-NN and probe of each artifact beside the reference's, in points of accuracy; a refusal with its reason."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("artifact", no_wrap=True)
    table.add_column("task", no_wrap=True)
    for name in ("images", "FP32", "here", "lost", "95 %", "p"):
        table.add_column(name, justify="right")
    for name, report in reports.items():
        for task in report.accuracy:
            if task.drop is None:
                table.add_row(name, task.title, str(task.n), "", "", Text(task.reason, "yellow"))
                continue
            before, after = (f"{100 * (rate.value or 0):.1f}" for rate in (task.reference, task.candidate))
            table.add_row(
                name,
                task.title,
                str(task.n),
                before,
                after,
                f"{100 * task.drop.value:.1f}",
                f"{100 * task.drop.low:.1f} to {100 * task.drop.high:.1f}",
                f"{task.p_value:.2f}",
            )
    return table


def latency_table(run: LatencyRun) -> Table:
    """Times in ms, memory in MB; what could not run is a row with its reason."""
    table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="dim")
    table.title = timing(run.run) if run.run else None
    table.add_column("artifact", no_wrap=True)
    for name in ("p50 ms", "p90 ms", "min ms", "images/s", "load ms", "peak MB", "vs FP32"):
        table.add_column(name, justify="right")
    table.add_column("")
    for name, report in run.reports.items():
        speedup = ratio(report.speedup.value, report.speedup.low, report.speedup.high) if report.speedup else "-"
        table.add_row(
            name,
            f"{report.p50_ms:.1f}",
            f"{report.p90_ms:.1f}",
            f"{report.min_ms:.1f}",
            f"{report.throughput_ips:.1f}",
            f"{report.load_ms:.0f}",
            f"{report.peak_rss_mb:.0f}",
            speedup,
            Text("" if report.stable else "noisy: " + report.noise.reasons[0], "yellow"),
        )
    for name, reason in run.failures.items():
        table.add_row(name, *["-"] * 7, Text(reason, "red"))
    return table
