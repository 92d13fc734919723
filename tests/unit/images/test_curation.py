"""Curation: copies go, every cluster speaks, the folder that comes out calibrates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import DataError
from edgekit.images.curation import curate


def _clustered(sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(32, len(sizes))))[0].T
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return centres[labels] + 0.05 * rng.normal(size=(len(labels), 32)), labels


def test_a_rare_kind_is_drawn_as_often_as_a_common_one() -> None:
    features, labels = _clustered((200, 10, 10))
    chosen = curate(features, 12, duplicate=1.1).chosen
    counts = np.bincount(labels[list(chosen)], minlength=3)
    assert len(set(chosen)) == 12
    assert counts.min() >= 3


def test_near_copies_count_once() -> None:
    features = np.random.default_rng(0).normal(size=(10, 32))
    found = curate(np.concatenate([features, features + 1e-3]), 20)
    assert found.duplicates == 10
    assert found.chosen == tuple(range(10))


def test_the_draw_is_seeded() -> None:
    features, _ = _clustered((30, 30))
    assert curate(features, 8, seed=1) == curate(features, 8, seed=1)
    assert curate(features, 8, seed=1).chosen != curate(features, 8, seed=2).chosen


@pytest.mark.parametrize(("images", "n"), [(0, 4), (4, 0)])
def test_nothing_to_choose_is_an_error(images: int, n: int) -> None:
    with pytest.raises(DataError, match=f"{n} of {images} images"):
        curate(np.ones((images, 8)), n)


def test_the_command_writes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], demo: object) -> None:
    from edgekit.cli import main

    (tmp_path / "photos" / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((20, 20, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / ("deep" if i % 2 else ".") / f"{i}.png")
        Image.fromarray(pixels).save(tmp_path / "photos" / f"copy{i}.png")
    words = ["curate", str(tmp_path / "photos"), "-n", "4", "--image-size", "56", "--out", str(tmp_path / "out")]
    assert main([*words, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["images"], done["chosen"], done["duplicates"] >= 6) == (12, 4, True)
    assert len([p for p in (tmp_path / "out").rglob("*.png")]) == 4
    assert json.loads((tmp_path / "out" / "curation.json").read_text()) == done
    assert main(words) == 1  # never over something that exists
    assert "not empty" in capsys.readouterr().err


def test_copies_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(0).normal(size=(25, 32))
    features[[3, 9, 17, 24]] = features[[1, 9, 2, 23]] * 1.5
    whole = curate(features, 25)
    monkeypatch.setattr("edgekit.images.curation._BLOCK", 4)
    assert curate(features, 25) == whole
    assert whole.chosen == tuple(i for i in range(25) if i not in (3, 17, 24))


def test_a_large_folder_gives_no_copies_and_all_kinds_without_comparing_all_pairs() -> None:
    features, labels = _clustered((200, 12, 12))
    features = np.concatenate([features, features[:150] * 2])  # copies of the most common kind
    found = curate(features, 12, duplicate=0.999, large=100)
    assert found.searched == "chosen"
    assert len({i % 224 for i in found.chosen}) == len(found.chosen) == 12
    assert np.bincount(labels[[i % 224 for i in found.chosen]], minlength=3).min() >= 3
    assert found == curate(features, 12, duplicate=0.999, large=100)
