"""Pictures of what models see: foreground colours of constructed features, attention, and `embed --visualize`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.cli import main
from edgekit.errors import DataError
from edgekit.measure.registers.attention import look_inside
from edgekit.models.vit import VisionTransformer
from edgekit.report.foreground import ForegroundColours
from tests.support.plans import export_source

pytest.importorskip("onnxruntime")
GRID = (8, 8)


def objects(places: list[tuple[int, int]], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Patch tokens (n, 64, 16) with a 4x4 object of four 2x2 parts at each place, and where the objects are."""
    random = np.random.default_rng(seed)
    background, thing = random.standard_normal((2, 16)) * 3
    parts = random.standard_normal((4, 16))
    tokens = np.tile(background, (len(places), *GRID, 1))
    truth = np.zeros((len(places), *GRID), bool)
    for image, (row, column) in enumerate(places):
        for part in range(4):
            y, x = row + 2 * (part // 2), column + 2 * (part % 2)
            tokens[image, y : y + 2, x : x + 2] = thing + parts[part]
        truth[image, row : row + 4, column : column + 4] = True
    tokens += 0.05 * random.standard_normal(tokens.shape)
    return tokens.reshape(len(places), 64, 16).astype(np.float32), truth.reshape(len(places), 64)


@pytest.mark.parametrize("seed", range(4))
def test_foreground_is_the_object_wherever_it_lies(seed: int) -> None:
    tokens, truth = objects([(1, 1), (2, 3), (3, 2)], seed)
    found = ForegroundColours.fit(tokens, GRID)
    np.testing.assert_array_equal(found.mask(tokens), truth)
    painted = found.paint(tokens[0], GRID).reshape(64, 3)
    assert (painted[~truth[0]] == 255).all()


def test_the_same_part_has_the_same_colour_in_every_image() -> None:
    tokens, truth = objects([(1, 1), (3, 3)])
    found = ForegroundColours.fit(tokens, GRID)
    first, second = (found.paint(each, GRID).reshape(64, 3)[seen].astype(int) for each, seen in zip(tokens, truth))  # noqa: B905
    assert np.abs(first - second).mean() < 15
    corners = first.reshape(4, 4, 3)[::3, ::3].reshape(4, 3)
    assert min(np.abs(a - b).max() for i, a in enumerate(corners) for b in corners[:i]) > 60


def test_no_foreground_is_said() -> None:
    with pytest.raises(DataError, match="foreground"):
        ForegroundColours.fit(np.ones((2, 64, 16), np.float32), GRID)


def test_inside_gives_the_models_tokens_and_softmax(tiny_reg_model: VisionTransformer) -> None:
    import torch

    pixels = np.random.default_rng(0).standard_normal((2, 3, 70, 56)).astype(np.float32)
    inside = look_inside(tiny_reg_model, pixels, ("a", "b"))
    with torch.no_grad():
        official = tiny_reg_model.forward_features(torch.from_numpy(pixels))
    np.testing.assert_allclose(inside.features.patches, official["x_norm_patchtokens"].numpy(), atol=1e-5)
    norms = official["x_prenorm"][:, 5:].norm(dim=-1).numpy()
    np.testing.assert_allclose(inside.norms, norms, rtol=1e-5)
    assert inside.features.grid == (5, 4)
    assert inside.attention.shape == (2, tiny_reg_model.config.heads, 20)
    sums = inside.attention.sum(axis=-1)  # the rest of 1 goes to the class token and the registers
    assert ((sums > 0) & (sums < 1)).all()


@pytest.fixture(scope="module")
def artifact(tiny_model: VisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    source = export_source(tiny_model.bake(70, 70), Preprocess.for_size(70, 70), None)
    return OnnxBackend().export(source, "fp32", "standard", tmp_path_factory.mktemp("build") / "model.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(7):
        Image.fromarray(random.integers(0, 256, (90, 80, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def test_visualize_writes_pictures_and_a_page(artifact: Artifact, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    out = tmp_path / "see"
    words = ["embed", str(artifact.path), str(photos), "--out", str(out), "--visualize", "--show", "3"]
    assert main(words) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [f"00{i}_{kind}.png" for i in range(3) for kind in ("photo", "pca_onnx_fp32", "neighbours_onnx_fp32")]
        + ["index.html"]
    )
    page = (out / "index.html").read_text()
    assert "No attention maps" in page
    assert "http" not in page
    assert Image.open(out / "000_neighbours_onnx_fp32.png").width == 6 * 128 + 5 * 4


def test_visualize_refuses_the_same_artifact_twice(artifact: Artifact, photos: Path, tmp_path: Path) -> None:
    words = ["embed", str(artifact.path), str(photos), "--out", str(tmp_path / "see"), "--beside", str(artifact.path)]
    assert main([*words, "--visualize"]) == 1
    assert main(words) == 2  # not without --visualize
    assert not (tmp_path / "see").exists()
