"""What the pages of a bundle say is so: their code is that of the samples, their files and commands exist."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import get_args

import pytest

from edgekit.bundle.pictures import PICTURES
from edgekit.bundle.platforms import TEMPLATES, Platform

SCREEN = 45  # lines
PLATFORMS = get_args(Platform)
SUFFIXES = {"kotlin": ".kt", "swift": ".swift"}
RESULTS = Path(__file__).parents[3] / "benchmarks/results/preprocessing.csv"


def page(platform: str) -> str:
    return (TEMPLATES / platform / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_page_is_one_screen_and_names_files_that_exist(platform: str) -> None:
    text = page(platform)
    assert len(text.splitlines()) <= SCREEN
    folder = TEMPLATES / platform
    known = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if "node_modules" not in path.parts]
    for cell in re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", cell):
            if name.startswith("edgekit_ops"):  # of edgekit/native, copied into each bundle
                continue
            tail = name.split("…")[-1].lstrip("/").rstrip("/")
            assert any(path.endswith(tail) for path in known), name


@pytest.mark.parametrize(("platform", "language"), [("android", "kotlin"), ("ios", "swift")])
def test_every_line_of_a_snippet_is_one_of_the_sample(platform: str, language: str) -> None:
    sources = [path.read_text() for path in (TEMPLATES / platform).rglob(f"*{SUFFIXES[language]}")]
    lines = {line.strip() for source in sources for line in source.splitlines()}
    snippets = blocks(page(platform), language)
    assert snippets
    for line in "".join(snippets).splitlines():
        assert line.strip() in lines, line


@pytest.mark.parametrize(
    ("sample", "loads"),
    [
        ("cpp/onnxruntime_embed.cpp", "get_api(ort::api_version)"),
        ("android/embed/src/main/kotlin/edgekit/android/OnnxEmbedder.kt", "OrtEnvironment.getEnvironment()"),
        ("web/node/embed.mjs", "from '@huggingface/transformers'"),
        ("web/node/transformers.test.ts", "from '@huggingface/transformers'"),
    ],
)
def test_samples_keep_onnx_runtime_from_reporting_its_use(sample: str, loads: str) -> None:
    """Before they load it: it decides once, and the browser's build has nothing to report with."""
    text = (TEMPLATES / sample).read_text(encoding="utf-8")
    if sample.startswith("web/node"):
        assert "ORT_DISABLE_TELEMETRY ??= '1'" in (TEMPLATES / "web/node/quiet.mjs").read_text(encoding="utf-8")
    switch = "import './quiet.mjs'" if sample.startswith("web/node") else 'setenv("ORT_DISABLE_TELEMETRY", "1"'
    assert 0 <= text.find(switch) < text.index(loads)


def test_the_npm_commands_exist() -> None:
    scripts = json.loads((TEMPLATES / "web/package.json").read_text())["scripts"]
    commands = re.findall(r"^npm (?:run )?(\w+)", page("web"), re.MULTILINE)
    assert set(commands) - {"ci"} <= scripts.keys()
    assert {"ci", "build", "preview", "check", "test"} <= set(commands)


def test_the_cpp_commands_name_programs_and_options_that_exist() -> None:
    cmake = (TEMPLATES / "cpp/CMakeLists.txt").read_text()
    for program in re.findall(r"^build/(\w+)", page("cpp"), re.MULTILINE):
        assert f"program({program})" in cmake
    for option in re.findall(r"-D(\w+)=/path", page("cpp")):
        assert option in cmake
    assert '"--check"' in (TEMPLATES / "cpp/golden.h").read_text()


def test_the_costs_of_other_preprocessing_are_the_measured_ones() -> None:
    with RESULTS.open(newline="", encoding="utf-8") as stream:
        measured = {row["way"]: row for row in csv.DictReader(stream)}
    table = re.findall(r"^\| ([^|`]+) \| ([\d. |]+) \|$", (PICTURES / "README.md").read_text(), re.MULTILINE)
    assert len(table) > 8
    for way, numbers in table:
        row = measured[way]
        wanted = [row[column] for column in ("mean_levels", "cls_cosine", "cls_cosine_min", "sqnr_db")]
        assert numbers.split(" | ") == wanted, way
