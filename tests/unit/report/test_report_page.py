"""The page of a report: self-contained, complete, and safe against what names and errors may hold."""

from __future__ import annotations

import re

import numpy as np
import pytest

from edgekit.artifact import ArtifactRow, Manifest, TimingRun
from edgekit.cli import main
from edgekit.host import describe_host
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features
from edgekit.measure.latency import LatencyReport, Speedup
from edgekit.measure.noise import Noise
from edgekit.report import BuildReport, write_report
from edgekit.report.verdict import judge


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
    assert "<script" not in page.lower()


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
