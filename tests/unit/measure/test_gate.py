"""The gate: what passes, what fails and why, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgekit.cli import main
from edgekit.errors import DataError, RecipeError
from edgekit.files import sha256_of
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.measure.gate import Limits, check_build, write_junit

SPEED = {"p50_ms": 9.0, "speedup_low": 1.9, "speedup_high": 2.1, "threads": 2, "batch": 1}
HEADS = {
    "cls": {"task": "classification", "measure": "top-1 agreement", "unit": "", "value": 0.97},
    "seg": {"task": "segmentation", "measure": "mIoU", "unit": "", "value": 0.9},
    "depth": {"task": "depth", "measure": "RMSE", "unit": "m", "value": 0.12},
    "map": {"task": "saliency", "measure": "MAE", "unit": "", "value": 0.004},
}
DRIFT = {"cls_cosine_mean": 0.999, "nn_agreement": 0.95, "knn_drop": 0.02, "heads": HEADS}


def build(folder: Path, *, cpu: str = "a CPU", **values: object) -> Path:
    """A build folder of an FP32 and a W8A8 file, the latter's row with `values`."""
    folder.mkdir()
    rows = []
    for precision in ("fp32", "w8a8"):
        path = folder / f"{precision}.onnx"
        path.write_bytes(precision.encode())
        row = {
            "name": f"onnx/{precision}",
            "format": "onnx",
            "precision": precision,
            "status": "ok",
            "path": path.name,
            "sha256": sha256_of(path),
            "drift": DRIFT,
            "latency": SPEED,
        }
        rows.append(ArtifactRow.model_validate(row | (values if precision == "w8a8" else {})))
    Manifest(model={}, recipe={}, recipe_digest="d", host={"cpu": cpu}, artifacts=tuple(rows)).write(folder)
    return folder


def outcomes(folder: Path, limits: Limits | None = None, baseline: Path | None = None) -> dict[str, str]:
    checks = check_build(folder, limits or Limits(), baseline=baseline)
    return {check.name: check.outcome for check in checks if check.artifact == "onnx/w8a8"}


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(cosine_drop=0.001), {"cosine drop": "passed"}),
        (Limits(cosine_drop=0.0009), {"cosine drop": "failed"}),
        (Limits(neighbour_drop=0.05), {"neighbour drop": "passed"}),
        (Limits(neighbour_drop=0.04), {"neighbour drop": "failed"}),
        (Limits(knn_drop=0.02), {"knn drop": "passed"}),
        (Limits(knn_drop=0.019), {"knn drop": "failed"}),
        (Limits(p50_ms=9), {"p50 ms": "passed"}),
        (Limits(p50_ms=8.9), {"p50 ms": "failed"}),
        (Limits(head_drops={"cls": 0.03, "depth": 0.12}), {"head drop cls": "passed", "head drop depth": "passed"}),
        (Limits(head_drops={"cls": 0.029, "seg": 0.11}), {"head drop cls": "failed", "head drop seg": "passed"}),
        (Limits(head_drops={"seg": 0.09, "depth": 0.11}), {"head drop seg": "failed", "head drop depth": "failed"}),
        (Limits(head_drops={"map": 0.004}), {"head drop map": "passed"}),
        (Limits(head_drops={"map": 0.003}), {"head drop map": "failed"}),
    ],
)
def test_limits(tmp_path, limits, expected):
    assert outcomes(build(tmp_path / "out"), limits) == {"file": "passed", **expected}


def test_a_limit_on_what_was_not_measured_fails(tmp_path):
    out = build(tmp_path / "out", drift=None, latency=None)
    found = outcomes(out, Limits(cosine_drop=1, knn_drop=1, p50_ms=1e9))
    assert [found[name] for name in ("cosine drop", "knn drop", "p50 ms")] == ["failed"] * 3


def test_what_cannot_be_timed_here_is_skipped(tmp_path):
    out = build(tmp_path / "out", latency=None, notes=("not timed here: no such chip",))
    assert outcomes(out, Limits(p50_ms=1))["p50 ms"] == "skipped"


def test_a_damaged_file_fails_without_any_limit(tmp_path):
    out = build(tmp_path / "out")
    (out / "w8a8.onnx").write_bytes(b"w8a9")
    assert outcomes(out) == {"file": "failed"}
    (out / "w8a8.onnx").unlink()
    assert outcomes(out) == {"file": "failed"}


@pytest.mark.parametrize(
    ("low", "high", "outcome"), [(1.9, 2.1, "passed"), (1.5, 1.81, "passed"), (1.5, 1.8, "failed")]
)
def test_only_a_speedup_clearly_below_the_baseline_fails(tmp_path, low, high, outcome):
    before = build(tmp_path / "before")
    now = build(tmp_path / "now", latency=SPEED | {"speedup_low": low, "speedup_high": high})
    assert outcomes(now, baseline=before / "manifest.json")["baseline speedup"] == outcome


def test_speed_is_not_compared_across_cpus_or_threads(tmp_path):
    before, slow = build(tmp_path / "before"), SPEED | {"speedup_low": 0.1, "speedup_high": 0.2}
    other = build(tmp_path / "other", cpu="another", latency=slow)
    threads = build(tmp_path / "threads", latency=slow | {"threads": 1})
    for now in (other, threads):
        assert outcomes(now, baseline=before)["baseline speedup"] == "skipped"


def test_drift_and_lost_artifacts_against_the_baseline(tmp_path):
    before = build(tmp_path / "before")
    worse = build(tmp_path / "worse", drift=DRIFT | {"cls_cosine_mean": 0.9988})
    lost = build(tmp_path / "lost", status="failed", reason="it broke")
    assert outcomes(before, baseline=before)["baseline drift"] == "passed"
    assert outcomes(worse, baseline=before)["baseline drift"] == "failed"
    assert outcomes(lost, baseline=before) == {"file": "failed", "baseline row": "failed"}


@pytest.mark.parametrize("values", [{"precision": "fp16"}, {"status": "not here"}])
def test_nothing_to_judge_is_an_error(tmp_path, values):
    out = build(tmp_path / "out", **values)
    with pytest.raises(RecipeError, match="no quantized artifact"):
        check_build(out, Limits(cosine_drop=0.1))
    with pytest.raises(DataError, match="no manifest"):
        check_build(tmp_path, Limits())


def test_junit_counts_failures_and_says_why(tmp_path):
    checks = check_build(build(tmp_path / "out"), Limits(cosine_drop=0.0001, knn_drop=0.1))
    suite = ElementTree.parse(write_junit(checks, tmp_path / "junit.xml")).getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("4", "1")
    assert "0.0001" in (suite.find("testcase/failure").get("message") or "")


def test_the_command_exits_3_and_says_why(tmp_path, capsys):
    out = str(build(tmp_path / "out"))
    assert main(["check", out, "--max-cosine-drop", "0.01"]) == 0
    assert main(["check", out, "--max-cosine-drop", "0.0001"]) == 3
    assert "onnx/w8a8 cosine drop" in capsys.readouterr().err
    assert main(["check", out, "--max-cosine-drop", "0.0001", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_heads_are_gated_in_their_unit_and_an_absent_one_fails(tmp_path, capsys):
    out = str(build(tmp_path / "out"))
    words = ["check", out, "--max-head-drop", "cls=0.05", "--max-head-drop"]
    assert main([*words, "depth=0.2"]) == 0
    assert "RMSE m 0.12, at most 0.2" in capsys.readouterr().out
    assert main([*words, "depth=0.1"]) == 3
    assert "onnx/w8a8 head drop depth" in capsys.readouterr().err
    assert main([*words, "pose=1"]) == 3
    assert "its heads are cls, depth, map, seg" in capsys.readouterr().err
    for wrong in ("depth", "=1", "depth=", "depth=-1", "depth=nan"):
        assert main([*words, wrong]) == 2
