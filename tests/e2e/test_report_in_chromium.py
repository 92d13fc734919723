"""The report in headless Chromium: accessible, offline, readable on a phone, and its controls work by keyboard."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import tests.support
from edgekit.report import write_report
from tests.support.reports import ROWS, crowded

CHECK = Path(tests.support.__file__).parent / "chromium"
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(shutil.which("npm") is None, reason="Node and npm are not installed"),
    pytest.mark.skipif(
        not (os.environ.get("CHROMIUM") or shutil.which("chromium")),
        reason="Chromium is not installed: apt-get install chromium, or CHROMIUM=/path/to/it",
    ),
]


def ran(folder: Path, *words: str) -> str:
    """Run a command and return what it printed; a failure shows it."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, Any]:
    """What Chromium saw in the report of many artifacts, beside an earlier build with fewer."""
    folder = tmp_path_factory.mktemp("chromium") / "check"
    shutil.copytree(CHECK, folder, ignore=shutil.ignore_patterns("node_modules"))
    ran(folder, "npm", "ci", "--no-audit", "--no-fund")
    report = crowded()
    fewer = report.manifest.model_copy(update={"artifacts": report.manifest.artifacts[:-3]})
    page = write_report(report, folder, against=report.model_copy(update={"manifest": fewer}))
    return json.loads(ran(folder, "node", "check.mjs", str(page)))


def test_nothing_is_asked_of_a_network_and_nothing_fails(seen):
    assert seen["requests"] == []
    assert seen["errors"] == []  # the content security policy refuses with one


def test_axe_finds_nothing_serious_in_light_and_dark_at_three_widths(seen):
    assert [each for each in seen["violations"] if each["impact"] in ("serious", "critical")] == []


def test_no_two_labels_of_the_scatter_overlap_as_drawn(seen):
    assert seen["overlaps"] == {"labels": len(ROWS), "pairs": []}


def test_every_width_holds_the_page(seen):
    assert [layout["width"] for layout in seen["layouts"]] == 2 * [390, 768, 1280]
    assert all(layout["overflow"] == 0 for layout in seen["layouts"])
    for layout in seen["layouts"]:
        if layout["width"] == 390:  # rows are cards
            assert max(layout["rows"]) <= 390
        if layout["width"] == 1280:
            assert layout["beforeDetails"] < 3000


def test_a_heading_sorts_by_keyboard_and_the_third_time_not(seen):
    (up, fastest), (down, slowest), (none, built) = seen["sorts"]
    assert (up, down, none) == ("ascending", "descending", None)
    timed = sorted(ROWS, key=lambda name: ROWS[name][0])
    assert fastest == [*timed, "coreml/w8a8"]
    assert slowest == [*timed[::-1], "coreml/w8a8"]  # what was not measured is last either way
    assert built == seen["built"] == [*ROWS, "coreml/w8a8"]
    assert seen["tip"].startswith("Median of one call")


def test_the_table_is_filtered(seen):
    assert seen["filtered"] == ["openvino/w8a8", "openvino/w8a8_fused", "openvino/w8a8_nncf"]
    assert seen["told"] == f"3 of {len(ROWS) + 1}"


def test_points_tell_what_they_are_and_escape_closes(seen):
    assert seen["point"].partition(":")[0] in ROWS
    assert "cosine" in seen["point"]
    assert seen["closed"]


def test_a_command_is_copied(seen):
    assert seen["copied"] == "Copied"


def test_without_a_script_the_page_reads_the_same(seen):
    found = seen["withoutScript"]
    assert not found["controls"]
    assert found["rows"] == len(ROWS) + 1
    assert found["opened"] == 1
    assert found["summaries"] > 3
