"""One table is one measurement: what is timed together, what is left out, and who is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.backends import load
from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.bundle import write_bundle
from edgekit.cli import main
from edgekit.files import sealed_path
from edgekit.manifest import Manifest
from edgekit.pipeline import build
from edgekit.recipe import Recipe
from edgekit.report.content import BuildReport


def runs(out: Path) -> dict[str, str | None]:
    """The run of each row's latency."""
    return {row.name: (row.latency or {}).get("run") for row in Manifest.read(out).artifacts}


def one_run(out: Path) -> str:
    """The only run of the folder, which manifest, report and choice share."""
    manifest = Manifest.read(out)
    (run,) = manifest.runs
    assert set(runs(out).values()) == {run.id}
    report = BuildReport.read_json(out / "report.json")
    assert report.run == run
    assert all(latency.run == run for latency in report.latency.values())
    assert report.latency.keys() == runs(out).keys()
    assert manifest.choice.run == run.id == report.verdict.run
    assert manifest.choice.artifact == report.verdict.choice
    return run.id


def test_every_measured_build_records_its_run_and_its_choice(built):
    assert one_run(built.out)
    (run,) = built.manifest.runs
    assert run.host == built.manifest.host
    assert (run.threads, run.batch, run.image_size) == (None, 1, (70, 70))
    assert load(built.out).artifact.name == built.verdict.choice
    assert "on this machine" in load(built.out).reason


def test_a_part_asked_for_again_times_all_rows_of_the_size(recipe, out):
    before = one_run(out)
    part = Recipe.make(recipe.model_dump() | {"precisions": ["fp32"]})
    result = build(part, out, threads=1)
    assert (result.made, result.kept) == ((), ("onnx/fp32",))
    assert set(result.timed) == {"onnx/fp32", "onnx/w8a8"}
    assert not result.did_nothing
    assert one_run(out) != before
    assert {row.latency["threads"] for row in Manifest.read(out).artifacts} == {1}


def test_the_same_request_again_does_nothing_and_remeasure_times_everything(recipe, out):
    build(recipe, out)
    before = one_run(out)
    assert build(recipe, out).did_nothing
    assert one_run(out) == before
    again = build(recipe, out, remeasure=True)
    assert set(again.timed) == {"onnx/fp32", "onnx/w8a8"}
    assert again.made == ()
    assert one_run(out) != before
    assert build(recipe, out).did_nothing


def test_what_cannot_run_here_loses_its_latency_and_says_why(recipe, out, monkeypatch):
    """A row of another format whose runtime is not here: as after copying a folder between machines."""
    record = json.loads((out / "records" / "onnx_w8a8.json").read_text())
    record["row"] |= {"format": "openvino", "name": "openvino/w8a8"}
    (out / "records" / "onnx_w8a8.json").unlink()
    with sealed_path(out / "records" / "openvino_w8a8.json") as temporary:
        temporary.write_text(json.dumps(record))
    from edgekit.backends.openvino.backend import OpenVinoBackend

    monkeypatch.setattr(OpenVinoBackend, "runner_missing", lambda self: "openvino is not installed here")
    part = Recipe.make(recipe.model_dump() | {"precisions": ["fp32"]})
    result = build(part, out, threads=1)
    assert result.timed == ("onnx/fp32",)
    row = next(row for row in Manifest.read(out).artifacts if row.name == "openvino/w8a8")
    assert row.latency is None
    assert "not timed here: openvino is not installed here; its earlier latency was of another run" in row.notes
    assert list(BuildReport.read_json(out / "report.json").latency) == ["onnx/fp32"]


def test_bench_save_rewrites_manifest_records_and_report_without_the_checkpoint(out, capsys, monkeypatch):
    before = one_run(out)
    page = (out / "report.html").read_text()
    from edgekit.models import zoo

    monkeypatch.setattr(zoo, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main(["bench", str(out), "--save", "--threads", "1", "--rounds", "3"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "timed together:" in said
    assert "1 thread, 20" in said
    assert " ".join(Manifest.read(out).choice.sentence.split()) in said
    assert one_run(out) != before
    assert (out / "report.html").read_text() != page
    assert main(["bench", str(out), "--save", "--rounds", "3", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert set(told["timed"]) == {"onnx/fp32", "onnx/w8a8"}
    assert main(["bench", str(out), "--save", "--batch", "2"]) == 2


def test_nothing_to_do_is_said_only_then(model_flags, out, capsys):
    request = [
        "build",
        *model_flags,
        "--eval-samples",
        "6",
        "--format",
        "onnx",
        "--precision",
        "fp32,w8a8",
        "--out",
        str(out),
    ]
    main(request)  # another recipe than the fixture's: what it adds is made
    capsys.readouterr()
    assert main(request) == 0
    assert "nothing to do: all" in capsys.readouterr().out
    assert main([*request, "--threads", "1"]) == 0
    said = capsys.readouterr().out
    assert "nothing to do" not in said
    assert "timed together" in said


def test_an_artifact_that_fails_again_is_not_nothing(recipe, tmp_path, monkeypatch, capsys):
    real = OnnxBackend.export

    def never_int8(self, source, precision, variant, path):
        if precision == "w8a8":
            raise ZeroDivisionError("a bug")
        return real(self, source, precision, variant, path)

    monkeypatch.setattr(OnnxBackend, "export", never_int8)
    build(recipe, tmp_path / "out", measure="none")
    again = build(recipe, tmp_path / "out", measure="none")
    assert (again.made, again.kept, again.failed) == ((), ("onnx/fp32",), ("onnx/w8a8",))
    assert not again.did_nothing


def test_exporting_more_keeps_the_choice_that_was_measured(recipe, out):
    choice = Manifest.read(out).choice
    build(Recipe.make(recipe.model_dump() | {"precisions": ["fp16"]}), out, measure="none")
    assert Manifest.read(out).choice == choice
    assert load(out).artifact.name == choice.artifact


def test_heading_verdict_and_card_name_the_run_and_a_file_of_the_bundle(out, tmp_path):
    page = (out / "report.html").read_text()
    (run,) = Manifest.read(out).runs
    assert f"{run.date[:10]} {run.date[11:16]} UTC" in page
    assert "edgekit bench OUT --save" in page
    report = BuildReport.read_json(out / "report.json")
    fastest = report.latency["onnx/w8a8"].p50_ms / 10
    made_up = {
        "onnx/fp32": report.latency["onnx/fp32"],
        "onnx/w8a8": report.latency["onnx/w8a8"].model_copy(update={"p50_ms": fastest}),
    }
    report.model_copy(update={"latency": made_up}).write_json(out)
    bundle = write_bundle(out, tmp_path / "bundle", platforms=["python"]).path
    card = (bundle / "README.md").read_text()
    assert "`onnx/model_quantized.onnx`" in card.split("## Files")[0]
    assert run.date[:10] in card.split("## Files")[0]
    for line in card.split("## Files")[0].splitlines():
        for named in (word.strip("`") for word in line.split() if word.startswith("`") and word.endswith("`")):
            assert (bundle / named).exists()
    assert Manifest.read(bundle).choice.artifact == "onnx/w8a8"


def test_a_report_is_judged_for_another_aim_and_load_follows(out, capsys):
    assert main(["report", str(out), "--optimize-for", "size", "--max-drop", "0.9"]) == 0
    assert Manifest.read(out).choice.goal == "size"
    assert load(out).artifact.name == BuildReport.read_json(out / "report.json").verdict.choice == "onnx/w8a8"


def test_a_file_that_was_made_anew_since_the_report_is_not_recommended_by_a_card(out, recipe, tmp_path):
    other = Recipe.make(recipe.model_dump() | {"calibration": {"source": recipe.calibration.source, "samples": 9}})
    assert build(other, out, measure="none").made == ("onnx/w8a8",)
    choice = Manifest.read(write_bundle(out, tmp_path / "bundle", platforms=["python"]).path).choice
    assert choice.artifact in ("onnx/fp32", None)
