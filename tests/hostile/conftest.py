"""The campaign against hostile input: each case must end in an error of edgekit's own, soon and in little memory."""

from __future__ import annotations

import resource
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

_PATIENCE_S = 60  # of one case, which takes milliseconds: only a hang is longer; processes of the full tier have more
_MOST_GROWTH = 1_500_000  # kB that the peak of this process may rise by in one case


@pytest.fixture(autouse=True)
def watched(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends a case that hangs, and fails one that took gigabytes."""

    patience = _PATIENCE_S * (5 if request.node.get_closest_marker("full") else 1)

    def give_up(*_: object) -> None:
        raise AssertionError(f"{request.node.name} has not ended after {patience} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(patience)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < _MOST_GROWTH, f"{grown / 1e6:.1f} GB more than before"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Totals per class of hostile input, which is a file of this folder."""
    totals: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            path = Path(report.nodeid.partition("::")[0])
            if path.parts[:2] == ("tests", "hostile") and report.when == ("setup" if outcome == "skipped" else "call"):
                totals.setdefault(path.stem.removeprefix("test_"), Counter())[outcome] += 1
    if not totals:
        return
    terminalreporter.section("hostile input")
    for name, counts in sorted(totals.items()):
        terminalreporter.write_line(
            f"{name:<14}{counts['passed']:>5} held{counts['failed']:>5} fell short{counts['skipped']:>5} skipped"
        )
    whole = sum(totals.values(), Counter[str]())
    terminalreporter.write_line(f"{'all':<14}{whole['passed']:>5} held{whole['failed']:>5} fell short")
