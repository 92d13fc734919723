"""The page of a report: self-contained, complete, and safe against what names and errors may hold."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgekit.cli import main
from edgekit.host import describe_host
from edgekit.manifest import ArtifactRow, Manifest, TimingRun
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features
from edgekit.measure.latency import LatencyReport, Speedup
from edgekit.measure.noise import Noise
from edgekit.report import BuildReport, template, write_report
from edgekit.report.changes import changes, summary
from edgekit.report.charts import trade_off
from edgekit.report.table import COLUMNS, table
from edgekit.report.template import CHART_WIDTH, digest
from edgekit.report.verdict import candidates, judge
from tests.support.reports import ROWS, crowded, timed


def row(name: str, **values: object) -> ArtifactRow:
    format_, _, precision = name.partition("/")
    return ArtifactRow(
        **{"name": name, "format": format_, "precision": precision, "status": "ok", "size_mb": 9.0, **values}
    )


@pytest.fixture(scope="module")
def report() -> BuildReport:
    generator = np.random.default_rng(0)
    tokens = generator.standard_normal((24, 5, 8)).astype(np.float32)
    names = tuple(f"photo {i} <b>" for i in range(24))
    noisy = tokens + 0.05 * generator.standard_normal(tokens.shape).astype(np.float32)
    drift = measure_drift(Features(tokens, (2, 2), names), Features(noisy, (2, 2), names))
    rows = (
        row("onnx/fp32"),
        row("onnx/w8a8", size_mb=2.3, notes=("a note",), audit={"gemms": 9, "gemms_int8": 9}),
        row("tflite/fp32", status="failed", reason="it said <script>alert(1)</script>"),
    )
    model = {"name": "tiny", "source": "a file", "origin": "here", "licence": "MIT", "sha256": "0" * 64}
    manifest = Manifest(model=model, recipe={}, recipe_digest="d" * 16, host={}, artifacts=rows)
    measured = {"onnx/w8a8": drift}
    return BuildReport(
        manifest=manifest,
        host=describe_host(),
        reference="onnx/fp32",
        verdict=judge(rows, measured, {}, reference="onnx/fp32"),
        drift=measured,
        evaluation="24 images",
        calibration="8 images",
    )


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> str:
    return write_report(report, tmp_path_factory.mktemp("report")).read_text(encoding="utf-8")


def test_nothing_is_fetched_from_anywhere(page):
    assert not re.findall(
        r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'\s>]+""", re.sub(r"<svg.*?</svg>", "", page, flags=re.S)
    )
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    assert page.lower().count("<script") == 1
    assert script == (Path(template.__file__).parent / "page.js").read_text(encoding="utf-8")
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{digest(script)}'" in page


def test_every_artifact_and_number_is_there(page, report):
    for artifact in report.manifest.artifacts:
        assert artifact.name in page
    drift = report.drift["onnx/w8a8"]
    assert f"{drift.cls_cosine.mean:.4f}" in page
    assert report.verdict.sentence in page
    assert "a note" in page
    assert "of 9 GEMMs 9 INT8" in page


def test_what_others_wrote_is_escaped(page):
    assert "&lt;script&gt;alert(1)" in page
    assert "photo 1 &lt;b&gt;" in page


def test_the_charts_are_drawn_in_the_page_colours(page):
    assert page.count("<svg") == 1  # no latency was measured: only the drift of every image
    assert "var(--w8a8)" in page


def test_the_same_report_gives_the_same_page(page, report, tmp_path):
    assert write_report(report, tmp_path).read_text(encoding="utf-8") == page
    assert BuildReport.read_json(tmp_path / "report.json") == report


def test_the_verdict_can_be_drawn_for_another_goal(report, tmp_path):
    write_report(report, tmp_path)
    report.manifest.write(tmp_path)
    assert main(["report", str(tmp_path), "--optimize-for", "size", "--max-drop", "0.5"]) == 0
    assert BuildReport.read_json(tmp_path / "report.json").verdict.aim.goal == "size"
    assert Manifest.read(tmp_path).choice.goal == "size"
    assert main(["report", str(tmp_path), "--optimize-for", "beauty"]) == 2


def test_a_doubt_stands_under_the_headline_and_the_run_in_the_heading(report, tmp_path):
    doubt = "In doubt: the host was busy, other work took 60% of its processor time meanwhile."
    verdict = report.verdict.model_copy(update={"sentence": f"Use onnx/w8a8. {doubt}", "doubt": doubt})
    run = TimingRun(
        id="r1",
        date="2026-11-29T14:03:00Z",
        threads=2,
        batch=1,
        image_size=(28, 28),
        busy=0.6,
        host=describe_host().model_dump(mode="json"),
    )
    speedup = Speedup(reference="onnx/fp32", value=3.1, low=1.9, high=5.2)
    times = {"times_ms": ((1.0, 2.0),) * 3, "p50_ms": 1.5, "p90_ms": 2.0, "p99_ms": None, "min_ms": 1.0, "mean_ms": 1.5}
    latency = LatencyReport(
        name="onnx/w8a8",
        batch=1,
        image_size=(28, 28),
        threads=2,
        rounds=3,
        **times,
        load_ms=1,
        first_ms=1,
        throughput_ips=1,
        peak_rss_mb=2,
        base_rss_mb=1,
        energy_mj=None,
        noise=Noise.of(times["times_ms"], 0.6),
        speedup=speedup,
        run=run,
    )
    timed = report.model_copy(update={"verdict": verdict, "latency": {"onnx/w8a8": latency}})
    page = write_report(timed, tmp_path).read_text(encoding="utf-8")
    assert "<h1>Use onnx/w8a8.</h1>" in page
    assert f"<b>{doubt}</b>" in page
    assert "2 threads, 2026-11-29 14:03 UTC, host busy (60%" in page
    assert "1.9× to 5.2×" in page
    assert "3.1×" not in page
    assert BuildReport.read_json(tmp_path / "report.json") == timed


@pytest.fixture(scope="module")
def crowd() -> BuildReport:
    return crowded()


@pytest.fixture(scope="module")
def crowd_page(crowd, tmp_path_factory) -> str:
    return write_report(crowd, tmp_path_factory.mktemp("crowd")).read_text(encoding="utf-8")


def test_every_cell_has_a_key_to_sort_by_and_a_label_for_phones(crowd, crowd_page):
    rows = {row.name: row for row in table(crowd)}
    assert [cell.label for cell in rows["onnx/w8a8"].cells] == [column.label for column in COLUMNS]
    assert rows["onnx/w8a8"].cells[7].key == 64.0
    assert rows["onnx/fp32"].cells[1].key is None  # the reference does not drift from itself
    assert rows["coreml/w8a8"].cells == ()
    assert crowd_page.count('data-label="p50"') == len(ROWS)
    assert 'data-label="p50" data-sort="64.0"' in crowd_page
    assert 'data-format="openvino" data-precision="w8a8"' in crowd_page


def test_memory_is_one_quantity_everywhere(crowd, crowd_page):
    row = next(row for row in table(crowd) if row.name == "onnx/w8a8")
    assert row.cells[-1] == type(row.cells[-1])("peak RSS", "214\u202fMB", 214.0)
    assert crowd_page.count(">214\u202fMB<") == 2  # table and chart
    assert "154\u202fMB" not in crowd_page  # without the interpreter's


def test_the_contents_lead_to_every_section(crowd_page):
    links = re.findall(r'<li><a href="#([^"]+)">([^<]+)</a>', crowd_page)
    titles = [title for _, title in links]
    assert titles == ["Artifacts", "Drift against latency", "Drift layer by layer", "Commands", "Details"]
    assert all(f'<section id="{name}"' in crowd_page for name, _ in links)
    assert len(re.findall(r' id="([^"]+)"', crowd_page)) == len(set(re.findall(r' id="([^"]+)"', crowd_page)))


def test_the_scatter_names_every_artifact_once_and_tells_each_point(crowd):
    found = candidates(crowd.manifest.artifacts, crowd.drift, crowd.latency, reference=crowd.reference)
    spec = trade_off(found, {row.name: row.format for row in crowd.manifest.artifacts}, CHART_WIDTH)
    layers = {layer["mark"]["type"]: spec["datasets"][layer["data"]["name"]] for layer in spec["layer"]}
    assert {label["name"] for label in layers["text"]} == ROWS.keys()
    tips = {point["name"]: point["tip"] for point in layers["point"]}
    assert tips["onnx/w8a8_fused"].startswith("onnx/w8a8_fused: 42.0\u202fms, 3")


def test_the_drift_behind_each_block_is_of_the_build_until_explain_has_looked(crowd, crowd_page):
    assert "behind each block, of the 8-bit plan on 4 evaluation images" in crowd_page
    assert "patches behind block 11: 30.0" in crowd_page


def recorded(report: BuildReport, *, without: str = "") -> BuildReport:
    """The report with its measurements in the manifest, too, as a build writes them."""
    rows = []
    for row in report.manifest.artifacts:
        drift, latency = report.drift.get(row.name), report.latency.get(row.name)
        summaries = {"drift": drift and drift.summary(), "latency": latency and latency.summary()}
        rows.append(row.model_copy(update=summaries))
    kept = tuple(row for row in rows if row.name != without)
    drift, latency = ({n: v for n, v in found.items() if n != without} for found in (report.drift, report.latency))
    manifest = report.manifest.model_copy(update={"artifacts": kept})
    return report.model_copy(update={"manifest": manifest, "drift": drift, "latency": latency})


def test_what_changed_since_an_earlier_build_is_told_with_a_verdict(crowd, tmp_path):
    times = crowd.latency | {"onnx/w8a8": timed("onnx/w8a8", 90.0), "tflite/w8": timed("tflite/w8", 100.0)}
    earlier, now = recorded(crowd), recorded(crowd.model_copy(update={"latency": times}), without="tflite/fp16")
    found = {change.name: change for change in changes(earlier, now)}
    turns = {name: change.verdict for name, change in found.items() if change.verdict != "unchanged"}
    assert turns == {"onnx/w8a8": "worse", "tflite/w8": "better", "tflite/fp16": "gone"}
    assert found["onnx/w8a8"].worse[0].endswith("in the baseline")
    assert summary(list(found.values())) == "Of 19 artifacts 1 worse, 1 better, 16 unchanged, 1 gone."
    page = write_report(now, tmp_path, against=earlier).read_text(encoding="utf-8")
    assert '<li><a href="#since">Since the earlier build</a>' in page
    assert "was 64.0\u202fms" in page
    assert "Same drift and size: onnx/fp32, " in page
