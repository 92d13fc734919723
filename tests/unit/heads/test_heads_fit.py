"""`edgekit fit-head`: heads that tell classes apart, judged on images they have not seen, and read back by a build."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from edgekit.cli import main
from edgekit.errors import DataError
from edgekit.graph.torch_emitter import TorchEmitter
from edgekit.heads.read import read_head
from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.vit import random_model
from edgekit.workflows.fit_head_training import Kind, fit_head
from tests.support.models import TINY

GRID = (2, 2)


def tokens_of(centres: np.ndarray, labels: np.ndarray, spread: float) -> np.ndarray:
    """(n, 1 + P, D): the class token near its class's centre, the patches near the opposite."""
    rng = np.random.default_rng(0)
    signs = np.array([1, -1, -1, -1, -1])[:, None]
    noise = rng.normal(size=(len(labels), 5, TINY.width))
    return (3 * centres[labels][:, None] * signs + spread * noise + 1).astype(np.float32)


@pytest.mark.parametrize("kind", ["linear", "knn"])
@pytest.mark.parametrize("count", [2, 4])
def test_a_head_read_back_gives_the_classes_of_its_images(kind: Kind, count: int, tmp_path: Path):
    centres = np.linalg.qr(np.random.default_rng(1).normal(size=(TINY.width, count)))[0].T
    labels = np.arange(160) % count
    names = [f"class {label}" for label in labels]
    tokens = tokens_of(centres, labels, 0.05)
    fitted = fit_head(tokens[:, 0], tokens[:, 1:].mean(1), names, kind)
    assert fitted.accuracy.value == 1
    assert fitted.accuracy.n == 32
    assert fitted.classes == tuple(f"class {i}" for i in range(count))
    save_file(fitted.state, tmp_path / "head.safetensors")
    head = read_head(tmp_path / "head.safetensors", TINY)
    assert head.shape(GRID) == (count,)
    e = TorchEmitter(replace(TINY, grid=GRID), {})
    outputs = head.emit(e, [torch.from_numpy(tokens)], GRID).numpy()
    assert np.array_equal(outputs.argmax(1), labels)


@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_features_without_classes_are_judged_to_be_at_chance(kind: Kind):
    rng = np.random.default_rng(0)
    cls, patches = rng.normal(size=(2, 200, 16))
    fitted = fit_head(cls, patches, [str(i % 4) for i in range(200)], kind)
    assert fitted.accuracy.value is not None
    assert fitted.accuracy.value < 0.55  # 10 of 40 by chance


def test_folders_that_are_no_classes_are_refused():
    features = np.ones((6, 4))
    with pytest.raises(DataError, match="1 class is none to tell apart"):
        fit_head(features, features, ["a"] * 6, "linear")
    with pytest.raises(DataError, match=r"too few images of b \(1\)"):
        fit_head(features, features, ["a"] * 5 + ["b"], "linear")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Reddish and bluish pictures."""
    rng = np.random.default_rng(0)
    for name, channel in (("red", 0), ("blue", 2)):
        for i in range(12):
            pixels = rng.integers(0, 60, (40, 40, 3), np.uint8)
            pixels[..., channel] += 180
            (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def test_the_command_writes_a_head_that_tells_colours_apart(labelled: Path, tmp_path: Path, capsys):
    save_checkpoint(random_model(TINY), tmp_path / "tiny.safetensors")
    words = ["--model", str(tmp_path / "tiny.safetensors"), "--image-size", "42"]
    out = tmp_path / "cls.safetensors"
    assert main(["fit-head", str(labelled), *words, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["classes"]) == (24, ["blue", "red"])
    assert told["held_out"]["n"] == 5
    assert "too few" in told["held_out"]["reason"]
    with safe_open(out, "np") as file:
        assert json.loads(file.metadata()["classes"]) == ["blue", "red"]
    assert read_head(out, TINY).shape((3, 3)) == (2,)
    before = out.read_bytes()
    assert main(["fit-head", str(labelled), *words, "--out", str(out)]) == 0
    assert out.read_bytes() == before
    assert f"--heads cls={out}" in capsys.readouterr().out


def test_the_command_says_what_is_wrong_with_a_folder(labelled: Path, tmp_path: Path, capsys):
    assert main(["fit-head", str(labelled / "red"), "--out", str(tmp_path / "a.safetensors")]) == 1
    assert "have no labels" in capsys.readouterr().err
    assert main(["fit-head", str(labelled), "--out", str(tmp_path / "a.bin")]) == 2
    assert "known is .safetensors" in capsys.readouterr().err
