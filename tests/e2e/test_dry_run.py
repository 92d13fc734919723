"""The dry run: what it looks at, that it writes nothing, and that it ends as the real run would."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from edgekit.cli import main


@pytest.fixture
def words(checkpoint, pictures, tmp_path):
    return {
        "--model": str(checkpoint),
        "--image-size": "70",
        "--calib": str(pictures),
        "--samples": "8",
        "--precision": "fp32,w8a8",
        "--out": str(tmp_path / "out"),
    }


def said(words: dict[str, str]) -> list[str]:
    return [word for pair in words.items() for word in pair]


def codes(command: str, words: dict[str, str], capsys) -> tuple[int, int, str, str]:
    """Exit codes of the dry run and of the real one, and what each says on stderr (without progress)."""
    dry = main([command, *said(words), "--dry-run", "-q"])
    first = capsys.readouterr().err
    assert not Path(words["--out"]).exists() or command == "kept"
    real = main([command, *said(words), "-q"])
    return dry, real, first, capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "quantize"])
def test_a_sound_request_is_looked_at_and_nothing_is_written(command, words, tmp_path, capsys):
    dry, real, _, _ = codes(command, words, capsys)
    assert (dry, real) == (0, 0)


def _missing_images(words, tmp_path):
    words["--calib"] = str(tmp_path / "nothing")


def _broken_images(words, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.png").write_bytes(b"no picture")
    words["--calib"] = str(folder)


def _images_that_leave_none_to_judge(words, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    Image.new("RGB", (90, 90), "red").save(folder / "a.png")
    for i in range(2):
        (folder / f"{i}.png").write_bytes(b"no picture")
    words["--calib"] = str(folder)


def _two_images(words, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    for i in range(2):
        Image.new("RGB", (90, 90), "red").save(folder / f"{i}.png")
    words["--calib"] = str(folder)


def _cut_checkpoint(words, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(words["--model"]).read_bytes()[:5000])
    words["--model"] = str(cut)


def _no_checkpoint(words, tmp_path):
    words["--model"] = str(tmp_path / "none.pth")


def _other_model(words, tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    words["--model"] = str(tmp_path / "other.safetensors")


def _unwritable_out(words, tmp_path):
    (tmp_path / "file").write_text("")
    words["--out"] = str(tmp_path / "file" / "out")


def _missing_head(words, tmp_path):
    words["--heads"] = f"cls={tmp_path / 'none.pth'}"


def _head_of_another_width(words, tmp_path):
    save_file({"weight": torch.zeros(5, 77), "bias": torch.zeros(5)}, tmp_path / "head.safetensors")
    words["--heads"] = f"cls={tmp_path / 'head.safetensors'}"


def _taken_name_of_a_head(words, tmp_path):
    words["--heads"] = "pooler_output=model"


def _no_such_head_in_the_checkpoint(words, tmp_path):
    words["--heads"] = "saliency=model"


def _too_many_crops(words, tmp_path):
    words |= {"--calib": "demo", "--samples": "300"}


def _no_backend_for_it(words, tmp_path):
    words |= {"--format": "openvino", "--precision": "w4"}  # only Core ML has it


def _integers_alone_of_three_images(words, tmp_path):
    folder = tmp_path / "three"
    folder.mkdir()
    for i, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (90, 90), colour).save(folder / f"{i}.png")
    words |= {"--calib": str(folder), "--samples": "3", "--precision": "w8a8"}


FAULTS = [
    _missing_images,
    _broken_images,
    _images_that_leave_none_to_judge,
    _two_images,
    _cut_checkpoint,
    _no_checkpoint,
    _other_model,
    _unwritable_out,
    _missing_head,
    _head_of_another_width,
    _taken_name_of_a_head,
    _no_such_head_in_the_checkpoint,
    _too_many_crops,
    _no_backend_for_it,
    _integers_alone_of_three_images,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_a_fault_ends_as_in_the_real_run(fault, words, tmp_path, capsys):
    fault(words, tmp_path)
    dry, real, first, second = codes("export", words, capsys)
    assert dry == real != 0
    assert first == second  # the same error, in the same words


@pytest.mark.parametrize("fault", [_missing_images, _cut_checkpoint, _integers_alone_of_three_images])
def test_a_plan_alone_too(fault, words, tmp_path, capsys):
    fault(words, tmp_path)
    dry, real, _, _ = codes("quantize", words, capsys)
    assert dry == real == 1


def test_a_plan_alone_judges_nothing(words, pictures, tmp_path, capsys):
    words["--calib"] = str(tmp_path / "some")
    shutil.copytree(pictures, words["--calib"])
    for picture in sorted(Path(words["--calib"]).iterdir())[6:]:
        picture.write_bytes(b"no picture")  # six are left: enough to calibrate on, and none to judge
    words["--samples"] = "6"
    assert codes("quantize", words, capsys)[:2] == (0, 0)
    words["--out"] = str(tmp_path / "again")
    dry, real, first, second = codes("export", words, capsys)
    assert (dry, first) == (real, second)
    assert dry == 1


def test_a_folder_of_another_model_is_refused(built, words, checkpoint, tmp_path, capsys, demo):
    out = tmp_path / "out"
    shutil.copytree(built.out, out)
    words |= {"--model": "demo", "--image-size": "70"}
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    assert main(["export", *said(words), "--dry-run"]) == 1
    assert "holds a build of" in capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before


def test_one_broken_image_is_named_and_no_error(pictures, words, tmp_path, capsys):
    shutil.copytree(pictures, tmp_path / "mixed")
    (tmp_path / "mixed" / "00.png").write_bytes(b"no picture")
    words["--calib"] = str(tmp_path / "mixed")
    assert main(["build", *said(words | {"--samples": "16"}), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert "00.png" in plan["found"]["calibration"] + plan["found"]["evaluation"]
    assert [row["doomed"] for row in plan["artifacts"]] == [row["blocked"] for row in plan["artifacts"]]


def test_a_plan_names_its_files(words, capsys):
    assert main(["quantize", *said(words | {"--image-size": "70,56"}), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert {"plan/int8.safetensors", "plan/int8_56x56.safetensors"} <= set(plan["plans"])


def test_a_model_that_is_not_here_is_not_fetched(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edgekit.models.sources.download", lambda *_, **__: pytest.fail("a download"))
    save_file({"weight": torch.zeros(5, 77), "bias": torch.zeros(5)}, tmp_path / "head.safetensors")
    words["--model"] = "dinov2_vits14"
    assert main(["build", *said(words), "--dry-run", "--json"]) == 0
    assert "not on this machine yet" in json.loads(capsys.readouterr().out)["found"]["model"]
    words["--heads"] = f"cls={tmp_path / 'head.safetensors'}"  # of another width than the entry's
    assert main(["build", *said(words), "--dry-run"]) == 1
    assert not (tmp_path / "cache").exists()
