"""Drift and curation over shards: bit for bit what a few images in memory give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgekit.artifact import Artifact
from edgekit.cli import main
from edgekit.errors import DataError
from edgekit.measure import drift as measure
from edgekit.measure.features import Features
from edgekit.models.vit import VisionTransformer
from edgekit.shards import WorkerPool
from edgekit.workflows.compare import drift_between
from edgekit.workflows.drift import Draw, drift_in_shards
from tests.support import shard_material as material

pytest.importorskip("onnxruntime")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def models(tiny_reg_model: VisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    return material.artifacts(tiny_reg_model, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return material.photos(tmp_path_factory.mktemp("drift") / "photos", 70)


def test_the_report_is_that_of_the_images_in_memory(models, photos, tmp_path):
    pair = models["fp32"], [models["fp16"]]
    expected = drift_between(*pair, str(photos), samples=60, seed=3)
    found, ran = drift_in_shards(*pair, str(photos), tmp_path / "out", WorkerPool(), draw=Draw(60, 3), shard_size=16)
    assert expected["onnx/fp16"].accuracy[0].drop is not None
    assert found == expected
    assert [done.images for done in ran.shards] == [16, 16, 16, 12]
    kept = drift_in_shards(*pair, str(photos), tmp_path / "out", WorkerPool(), draw=Draw(60, 3), shard_size=16)
    assert (kept[0], kept[1].kept) == (expected, 4)
    assert json.loads((tmp_path / "out" / "drift.json").read_text())["onnx/fp16"]["n"] == 60
    table = pq.read_table(tmp_path / "out" / "images.parquet")
    assert table["sqnr_db"].to_pylist() == [image.sqnr_db for image in expected["onnx/fp16"].images]


def test_the_command_gates_and_leaves_an_unreadable_image_out(models, photos, tmp_path, capsys):
    some = material.photos(tmp_path / "photos", 8)
    (some / "cats" / "001.png").write_bytes(b"no picture")
    words = ["drift", str(models["fp16"].path), "--reference", str(models["fp32"].path), "--eval", str(some)]
    words += ["--out", str(tmp_path / "out"), "--shard-size", "3", "--max-drop"]
    assert main([*words, "0.1"]) == 0
    assert "skipped cats/001.png" in capsys.readouterr().out
    assert main([*words, "0", "--json"]) == 3
    said = capsys.readouterr()
    assert json.loads(said.out)["onnx/fp16"]["n"] == 7
    assert "skipped cats/001.png" in said.err


def test_values_that_are_not_finite_end_the_run_with_the_image(models, photos, tmp_path, monkeypatch):
    from edgekit.shards import drift

    monkeypatch.setattr(
        drift,
        "open_model",
        lambda model, threads: lambda x: {"last_hidden_state": np.full((1, 9, 128), np.nan, np.float32)},
    )
    with pytest.raises(DataError, match=r"not finite.*cats/001.png"):
        drift_in_shards(models["fp32"], [models["fp16"]], str(photos), tmp_path / "out", WorkerPool(), draw=Draw(100))


def test_beyond_the_pairs_that_fit_neighbours_are_sampled_and_the_worst_are_named(monkeypatch):
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((60, 5, 16)).astype(np.float32)
    noisy = tokens + 0.1 * rng.standard_normal(tokens.shape).astype(np.float32)
    noisy[7] *= -1
    pair = [Features(values, (2, 2), tuple(str(i) for i in range(60))) for values in (tokens, noisy)]
    whole = measure.measure_drift(*pair)
    monkeypatch.setattr(measure, "ALL_PAIRS", 40)
    monkeypatch.setattr(measure, "WORST", 5)
    part = measure.measure_drift(*pair)
    assert (whole.own.nn_agreement.n, part.own.nn_agreement.n) == (60, 40)
    assert {image.name for image in part.images} == {image.name for image in whole.worst(5)}
    assert part.model_copy(update={"own": whole.own, "mixed": whole.mixed, "images": whole.images}) == whole


def test_curated_from_shards_as_from_memory_and_again_without_the_model(tmp_path, capsys, monkeypatch, demo):
    photos = material.photos(tmp_path / "photos", 12)
    words = ["curate", str(photos), "-n", "4", "--image-size", "28", "--threads", "1", "--json", "--out"]
    shards = ["--features", str(tmp_path / "features"), "--shard-size", "16"]
    assert main([*words, str(tmp_path / "memory")]) == 0
    memory = json.loads(capsys.readouterr().out)
    assert main([*words, str(tmp_path / "disk"), *shards]) == 0
    disk = json.loads(capsys.readouterr().out)
    assert disk == memory | {"features": str(tmp_path / "features")}
    chosen = {path.name for path in (tmp_path / "memory").rglob("*.png")}
    assert {path.name for path in (tmp_path / "disk").rglob("*.png")} == chosen

    from edgekit.shards import embedding

    monkeypatch.setattr(embedding, "open_model", lambda *_: pytest.fail("the features are there"))
    assert main([*words, str(tmp_path / "more"), *shards, "-n", "6"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"] == 6
