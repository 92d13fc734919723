"""The npm package @edgekit/web in Node: whole models in WebAssembly against the native library and Python's crops."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from edgekit.metrics import sqnr_db
from edgekit.native import wasm
from edgekit.native.model import NativeModel
from edgekit.pipeline import build
from edgekit.recipe import Recipe
from tests.support import wasm_ops

ROOT = Path(__file__).parents[2]
WEB = ROOT / "edgekit/bundle/templates/web"
SCRIPT = ROOT / "tests/support/web_model.mjs"
FILES = {"fp32": "model.edgekit", "w8a8": "model_w8a8.edgekit", "w8a16": "model_w8a16.edgekit"}
LEAST_SQNR = {"fp32": 100.0, "w8a8": 40.0, "w8a16": 60.0}
"""dB against the native library: both round the same numbers, in another order where they are floats."""

pytestmark = pytest.mark.skipif(wasm_ops.missing() is not None, reason=str(wasm_ops.missing()))


@pytest.fixture(scope="module")
def models(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model's `.edgekit` files."""
    out = tmp_path_factory.mktemp("models") / "out"
    wanted = recipe.model_dump() | {"formats": ["edgekit"], "precisions": list(FILES)}
    build(Recipe.make(wanted), out, measure="none")
    return out / "edgekit"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a bundle has it."""
    folder = tmp_path_factory.mktemp("package") / "edgekit-web"
    shutil.copytree(WEB / "edgekit-web", folder, ignore=shutil.ignore_patterns("wasm"))
    wasm.copied(wasm.wasm_libraries(), folder / "wasm")
    return folder


@pytest.fixture(scope="module")
def w8a8(package: Path, models: Path) -> Iterator[wasm_ops.Node]:
    node = wasm_ops.Node(SCRIPT, package, models / FILES["w8a8"])
    yield node
    node.close()


def asked(node: wasm_ops.Node, kind: str, picture: np.ndarray, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """The answer to a question about a picture (H, W, 3)."""
    height, width = picture.shape[:2]
    question = {"kind": kind, "picture": {"width": width, "height": height, "data": wasm_ops.text_of(picture)}}
    return node.ask(question | ({"size": size} if size else {}))


def tokens_of(answer: dict[str, Any]) -> np.ndarray:
    return wasm_ops.values_of(answer["tokens"]["data"], np.float32).reshape(answer["tokens"]["shape"])


def photograph(height: int = 90, width: int = 120) -> np.ndarray:
    """Smooth colours with noise on them."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([rows * 2 % 256, columns * 2 % 256, (rows + columns) % 256], -1)
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("isa", [isa.name for isa in wasm.ISAS])
@pytest.mark.parametrize("precision", FILES)
def test_features_are_those_of_the_native_library(package: Path, models: Path, precision: str, isa: str) -> None:
    path = models / FILES[precision]
    try:
        node = wasm_ops.Node(SCRIPT, package, path, isa)
    except RuntimeError as error:
        if "unreachable" not in str(error):
            raise
        pytest.skip(f"this Node does not compute {isa} exactly")
    answer = asked(node, "embed", photograph())
    expected = NativeModel(path).context().run_picture(photograph())
    assert node.opened["isa"] == isa
    assert node.opened["bytes"] == path.stat().st_size
    assert node.opened["description"] == NativeModel(path).description
    assert sqnr_db(expected["last_hidden_state"][0], tokens_of(answer)) > LEAST_SQNR[precision]
    pooled = wasm_ops.values_of(answer["pooled"], np.float32)
    assert np.array_equal(pooled, tokens_of(answer)[0])
    assert node.ask({"kind": "check"})["cosine"] > 0.99
    node.close()


def test_crops_are_pythons(w8a8: wasm_ops.Node) -> None:
    cases = load_file(WEB / "tests/preprocess.safetensors")
    for name in (key.removesuffix(".image") for key in cases if key.endswith(".image")):
        picture, size = cases[f"{name}.image"], cases[f"{name}.pixel_values"].shape[1:]
        preprocess = w8a8.opened["description"]["manifest"]["preprocess"]
        answer = asked(w8a8, "crop", picture, size)
        crop = wasm_ops.values_of(answer["data"], np.uint8).reshape(answer["height"], answer["width"], 3)
        levels = crop.astype(np.float32) / np.float32(255)
        normal = (levels - np.float32(preprocess["mean"])) / np.float32(preprocess["std"])
        np.testing.assert_array_equal(normal.transpose(2, 0, 1), cases[f"{name}.pixel_values"], err_msg=name)


def test_another_size_gives_another_grid(w8a8: wasm_ops.Node) -> None:
    answer = asked(w8a8, "embed", photograph(), (84, 56))
    assert answer["grid"] == [6, 4]
    assert answer["tokens"]["shape"][0] == 1 + 24


def test_values_that_are_no_picture_are_refused_and_the_model_lives_on(w8a8: wasm_ops.Node) -> None:
    with pytest.raises(RuntimeError, match="10 values are no picture"):
        w8a8.ask({"kind": "run", "values": wasm_ops.text_of(np.zeros(10, np.float32))})
    with pytest.raises(RuntimeError, match="sides are 1 to"):
        asked(w8a8, "embed", np.zeros((1, 400_000, 3), np.uint8))
    assert asked(w8a8, "embed", photograph())["grid"] == [5, 5]


@pytest.mark.parametrize("kept", [0, 7, 1000, -1])
def test_a_file_that_is_cut_short_is_refused(package: Path, models: Path, tmp_path: Path, kept: int) -> None:
    damaged = tmp_path / "damaged.edgekit"
    damaged.write_bytes((models / FILES["w8a8"]).read_bytes()[:kept])
    with pytest.raises(RuntimeError) as caught:
        wasm_ops.Node(SCRIPT, package, damaged)
    assert "fault of the library" not in str(caught.value)
