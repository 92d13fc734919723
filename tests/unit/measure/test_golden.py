"""Golden files: they come back as they went in, and every way of being wrong is told apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgekit.artifact import Artifact, Preprocess
from edgekit.errors import DataError, DriftExceeded
from edgekit.measure.golden import FOLDER, INPUTS, OUTPUTS, check_golden, cosine, read_golden, write_golden
from edgekit.precision import FACTS, Precision

rng = np.random.default_rng(0)
PIXELS = rng.standard_normal((2, 3, 28, 28)).astype(np.float32)
TOKENS = rng.standard_normal((2, 5, 8)).astype(np.float32)
EXPECTED = {"last_hidden_state": TOKENS, "pooler_output": TOKENS[:, 0]}


@dataclass
class Canned:
    """A runner that answers with these tokens."""

    artifact: Artifact
    tokens: np.ndarray

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        assert np.array_equal(pixel_values, PIXELS)
        return {"last_hidden_state": self.tokens, "pooler_output": self.tokens[:, 0]}


def runner(tokens: np.ndarray, precision: Precision = "fp32", size: int = 28) -> Canned:
    artifact = Artifact(
        name=f"onnx/{precision}",
        path=Path("x.onnx"),
        format="onnx",
        precision=precision,
        inputs=(),
        outputs=(),
        preprocess=Preprocess.for_size(size, size),
        recipe_digest="",
        parent_sha256="",
        sha256="",
        size_mb=0,
    )
    return Canned(artifact, tokens)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    write_golden(tmp_path, PIXELS, EXPECTED)
    return tmp_path


def test_what_is_written_comes_back_and_is_the_same_every_time(build: Path, tmp_path: Path) -> None:
    pixels, outputs = read_golden(build)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert set(outputs) == set(EXPECTED)
    for name, value in outputs.items():
        np.testing.assert_array_equal(value, EXPECTED[name])
    again = write_golden(tmp_path / "again", PIXELS, EXPECTED)
    for file in (INPUTS, OUTPUTS):
        assert (build / FOLDER / file).read_bytes() == (again / file).read_bytes()


def test_figures_are_the_least_over_images_and_tokens(build: Path) -> None:
    off = TOKENS.copy()
    off[1, 3] += np.float32([0.5] + [0] * 7)
    check = check_golden(build, runner(off))
    assert check.images == 2
    assert check.pooler_cosine == pytest.approx(1)
    assert check.token_cosine == pytest.approx(cosine(off[1, 3], TOKENS[1, 3]))
    assert check.largest_difference == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize("precision", FACTS)
def test_each_precision_has_its_own_limit(build: Path, precision: Precision) -> None:
    limit = FACTS[precision].least_cosine
    for side, passes in ((0.9, True), (1.1, False)):  # of the angle that the limit stands for
        angle = np.arccos(limit) * side
        sideways = rng.standard_normal(TOKENS.shape)
        sideways -= TOKENS * (sideways * TOKENS).sum(-1, keepdims=True) / (TOKENS**2).sum(-1, keepdims=True)
        sideways *= np.linalg.norm(TOKENS, axis=-1, keepdims=True) / np.linalg.norm(sideways, axis=-1, keepdims=True)
        turned = np.cos(angle) * TOKENS + np.sin(angle) * sideways
        if passes:
            check_golden(build, runner(turned, precision))
        else:
            with pytest.raises(DriftExceeded, match=precision):
                check_golden(build, runner(turned, precision))


def test_not_a_number_never_passes(build: Path) -> None:
    broken = TOKENS.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(DriftExceeded):
        check_golden(build, runner(broken, "w4a8"))


def test_another_image_size_is_said(build: Path) -> None:
    with pytest.raises(DataError, match=r"28x28 pixels.*14x14"):
        check_golden(build, runner(TOKENS, size=14))


@pytest.mark.parametrize("damage", ["absent", "short", "without tensor"])
def test_files_that_cannot_be_read_are_said(build: Path, damage: str) -> None:
    file = build / FOLDER / OUTPUTS
    match damage:
        case "absent":
            file.unlink()
        case "short":
            file.write_bytes(file.read_bytes()[:50])
        case _:
            file.write_bytes((build / FOLDER / INPUTS).read_bytes())
    with pytest.raises(DataError, match="golden"):
        check_golden(build, runner(TOKENS))
