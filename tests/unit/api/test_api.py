"""The library's calls: their examples run, live modules are models, and what they return is shown in a notebook."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import edgekit
from edgekit.api import builds, measures, plans
from edgekit.errors import DataError, RecipeError
from edgekit.models.checkpoint import save_checkpoint
from edgekit.models.live import save_module
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.models.zoo import load
from edgekit.report.tables import Table
from tests.support.models import TINY, photographs

SIZE = 70


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name, and the build that the first of them makes."""
    folder = tmp_path_factory.mktemp("examples")
    save_checkpoint(random_model(TINY), folder / "vit.safetensors")
    photographs(folder / "photos", 12)
    edgekit.build(
        folder / "vit.safetensors",
        folder / "OUT",
        calib=folder / "photos",
        formats="onnx",
        precisions="fp32,w8a8",
        fused=False,
        image_size=SIZE,
    )
    return folder


@pytest.mark.parametrize("module", [builds, plans, measures], ids=lambda module: module.__name__)
def test_the_examples_run(module: ModuleType, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    found = doctest.testmod(module, optionflags=flags)
    assert found.attempted > 2
    assert found.failed == 0


def test_public_names_are_listed_and_typed() -> None:
    assert dir(edgekit) == sorted([*edgekit.__all__, "__version__"])
    assert all(hasattr(edgekit, name) for name in edgekit.__all__)
    assert (Path(edgekit.__file__).parent / "py.typed").is_file()


def test_a_live_module_is_a_model(tmp_path: Path, place: Path) -> None:
    module = random_model(TINY)
    settings = {"formats": "onnx", "precisions": "fp32", "image_size": SIZE, "calib": place / "photos", "fused": False}
    done = edgekit.build(module, tmp_path / "OUT", measure="none", **settings)  # type: ignore[arg-type]
    assert done.manifest.model["name"] == "VisionTransformer"
    assert (tmp_path / "OUT" / "checkpoint" / "VisionTransformer" / "model.safetensors").is_file()
    again = edgekit.build(module, tmp_path / "OUT", measure="none", **settings)  # type: ignore[arg-type]
    assert again.did_nothing
    with pytest.raises(DataError, match="holds other weights than this VisionTransformer"):
        edgekit.build(random_model(TINY, seed=1), tmp_path / "OUT", measure="none", **settings)  # type: ignore[arg-type]
    assert edgekit.drift(module, done.out, place / "photos").cls_cosine.mean > 0.9999


def test_modules_of_transformers_are_models(tmp_path: Path) -> None:
    from transformers import Dinov2Config, Dinov2ForImageClassification

    config = Dinov2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE, patch_size=14, num_labels=3
    )
    module = Dinov2ForImageClassification(config).eval()
    loaded = load(save_module(module, tmp_path))
    assert loaded.name == "Dinov2ForImageClassification"
    pixels = torch.randn(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        expected = module.dinov2(pixels).last_hidden_state
        found, _ = loaded.model.bake(SIZE, SIZE)(pixels)
    assert torch.allclose(found, expected, atol=1e-5)
    assert any(key.startswith("classifier") for key in loaded.rest)


def test_a_module_of_no_known_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no DINOv2 or DINOv3 backbone"):
        edgekit.quantize(torch.nn.Linear(2, 2), [np.zeros((8, 8, 3), np.uint8)] * 4, image_size=SIZE)


def test_pictures_stand_for_a_folder(place: Path) -> None:
    model = edgekit.load(place / "OUT" / "onnx" / "model.onnx")
    files = sorted((place / "photos").iterdir())[:3]
    one_by_one = edgekit.embed(model, [files[0], Image.open(files[1]), np.asarray(Image.open(files[2]))])
    assert one_by_one.paths == ("0", "1", "2")
    assert np.allclose(
        one_by_one.features, edgekit.embed(model, place / "photos", samples=None).features[:3], atol=1e-5
    )


def test_impossible_requests_are_recipe_errors(place: Path) -> None:
    with pytest.raises(RecipeError, match="calib and calibration"):
        edgekit.build("demo", "OUT", calib="a", calibration="b")
    with pytest.raises(RecipeError, match="weight_bits 5"):
        edgekit.quantize(place / "vit.safetensors", place / "photos", bits=5, image_size=SIZE)
    with pytest.raises(DataError, match="nothing to time"):
        edgekit.bench()


def test_tables_are_text_and_html() -> None:
    table = Table(("artifact", "MB"), (("<b>", "1.0"),), title="a & b")
    assert str(table).splitlines()[1].split() == ["artifact", "MB"]
    html = table._repr_html_()
    assert "&lt;b&gt;" in html
    assert "a &amp; b" in html
    assert '<td style="text-align:right">1.0</td>' in html


def test_the_model_of_a_module_keeps_its_function(tmp_path: Path) -> None:
    module = random_model(TINY)
    loaded = load(save_module(module, tmp_path)).model
    assert isinstance(loaded, VisionTransformer)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    "program",
    [
        "edgekit.embed(OUT, PHOTOS)",
        "edgekit.drift(OUT / 'onnx/model.onnx', OUT / 'onnx/model_w8a8.onnx', PHOTOS, samples=4)",
        "edgekit.bench(OUT / 'onnx/model_w8a8.onnx', rounds=3)",
        "import edgekit.workflows.doctor, edgekit.pipeline.jobs",
        *(f"assert main(['{words}']) == 0" for words in ("models", "recipes")),
        "assert main(['embed', str(OUT), str(PHOTOS), '--out', str(OUT / 'features.npz')]) == 0",
        "assert main(['inspect', str(OUT)]) == 0",
    ],
)
def test_what_needs_no_torch_runs_without_it(program: str, place: Path) -> None:
    head = "import sys; sys.modules['torch'] = None; import edgekit; from edgekit.cli import main"
    paths = f"from pathlib import Path; OUT, PHOTOS = Path({str(place / 'OUT')!r}), Path({str(place / 'photos')!r})"
    command = [sys.executable, "-c", f"{head}\n{paths}\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
